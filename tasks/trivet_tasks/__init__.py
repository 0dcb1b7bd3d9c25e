"""Ground floor: the vocabulary of Trivet, its settings, its SQL store, its prices and its messages."""
