"""Reading and checking of requests: the Messages API's body and Trivet's own fields."""
