"""What is measured: a module for each row of the table, or for a few that are measured together."""
