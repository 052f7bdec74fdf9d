"""What an update tells about the images behind it: attacks on updates of a hospital's own, run by the hospital."""
