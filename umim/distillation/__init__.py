"""What the server learns after the merge, on unlabelled images."""
