"""Files of `trivet config init`: a configuration for the credentials found here, or a reference set-up."""
