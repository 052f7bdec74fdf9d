"""Reading a hospital's images: sources, splits by patient, transforms. Nothing here writes or sends anything."""
