"""What the records of formats are made of: the record itself, packed layouts, and the search for scales."""
