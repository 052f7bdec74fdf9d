"""Development tools: the embedded cluster, images and the demo. Not part of the product."""
