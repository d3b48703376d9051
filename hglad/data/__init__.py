"""Real images: data sets, image files, augmentation."""

from hglad.data.augmentation import Augmentation, Transform
from hglad.data.datasets import DataSet, RealData, available, from_arrays, load_data

__all__ = ["Augmentation", "DataSet", "RealData", "Transform", "available", "from_arrays", "load_data"]
