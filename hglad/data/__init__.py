"""Real images: data sets, image files, augmentation."""
