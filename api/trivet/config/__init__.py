"""What trivet config init writes: a configuration for the credentials found here, or a reference set-up."""
