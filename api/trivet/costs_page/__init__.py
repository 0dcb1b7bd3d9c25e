"""The report of `trivet costs --html`: one page that needs nothing but itself."""
