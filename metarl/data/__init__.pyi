from .families import FAMILIES as FAMILIES
from .families import load_images as load_images
from .folders import find_classes as find_classes
from .folders import has_splits as has_splits
from .images import Classes as Classes
from .images import Splits as Splits
from .splitting import read_split as read_split
