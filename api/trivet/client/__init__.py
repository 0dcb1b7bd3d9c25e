"""The client: jobs and batches as a producer submits and awaits them."""
