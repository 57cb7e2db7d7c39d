"""From a list of requests to results: what runs together, and what each row wears."""
