"""What each page says, as values: pure functions of the snapshot, the time and the query."""
