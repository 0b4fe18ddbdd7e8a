from .families import FAMILIES as FAMILIES
from .families import load_images as load_images
from .images import Classes as Classes
from .images import Splits as Splits
