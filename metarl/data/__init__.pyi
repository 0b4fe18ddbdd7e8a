from .families import FAMILIES as FAMILIES
from .families import load_images as load_images
from .images import Classes as Classes
from .images import Splits as Splits
from .inputs import ImageFormat as ImageFormat
from .inputs import find_examples as find_examples
from .inputs import find_images as find_images
