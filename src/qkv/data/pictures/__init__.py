"""Pictures from folders and zip files, their captions, and how they are changed for training."""

from qkv.data.pictures.augmentation import AugmentationConfig as AugmentationConfig
from qkv.data.pictures.augmentation import AugmentedPlan as AugmentedPlan
from qkv.data.pictures.augmentation import PictureBatch as PictureBatch
from qkv.data.pictures.augmentation import augment_pictures as augment_pictures
from qkv.data.pictures.captioned import CaptionedPictures as CaptionedPictures
from qkv.data.pictures.captioned import load_captioned_pictures as load_captioned_pictures
from qkv.data.pictures.captions import CaptionConfig as CaptionConfig
from qkv.data.pictures.captions import MatchedCaptions as MatchedCaptions
from qkv.data.pictures.captions import match_captions as match_captions
from qkv.data.pictures.captions import read_captions as read_captions
from qkv.data.pictures.config import PictureConfig as PictureConfig
from qkv.data.pictures.hiding import HiddenBatch as HiddenBatch
from qkv.data.pictures.hiding import HiddenPlan as HiddenPlan
from qkv.data.pictures.hiding import hide_cells as hide_cells
from qkv.data.pictures.loading import Pictures as Pictures
from qkv.data.pictures.loading import load_pictures as load_pictures
from qkv.data.pictures.noise import NoiseBatch as NoiseBatch
from qkv.data.pictures.noise import NoisePlan as NoisePlan
from qkv.data.pictures.noise import draw_noise as draw_noise
from qkv.data.pictures.pixels import PixelStatistics as PixelStatistics
from qkv.data.pictures.pixels import check_pixels as check_pixels
from qkv.data.pictures.pixels import measure_pixels as measure_pixels
