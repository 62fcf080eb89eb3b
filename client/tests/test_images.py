"""Invalid images are refused before anything is sent, with a message that says how to convert them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from mien_client import InvalidImageError
from mien_client._images import as_images
from PIL import Image

GREY = np.random.default_rng(0).integers(0, 256, (4, 48, 48), np.uint8)


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 1), (1, 48, 48), (3, 48, 48), (3, 48, 48, 1), (48, 48, 48)])
def test_accepted_shapes(shape):
    images = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    batch = as_images(images)
    assert batch.shape == (images.size // 48**2, 48, 48)
    assert batch.tobytes() == images.tobytes()


def test_a_contiguous_array_is_not_copied():
    assert np.shares_memory(as_images(GREY), GREY)


@pytest.mark.parametrize(
    "images",
    [
        list(GREY),
        GREY.tolist(),
        GREY[0].tolist(),
        GREY / np.float32(255),
        GREY.astype(np.float64),
        GREY.astype(np.int64),
        GREY.astype(object),
        GREY > 127,
        np.empty((0, 48, 48)),
        GREY.reshape(4, 2304),
        GREY[0].ravel(),
        GREY[:, None],
        np.ma.masked_less(GREY, 9),
        Image.fromarray(GREY[0]).convert("RGB").resize((96, 96)),
        memoryview(GREY),  # type: ignore[arg-type]
    ],
    ids=lambda images: f"{type(images).__name__} {getattr(images, 'dtype', '')} {getattr(images, 'shape', '')}",
)
def test_the_conversion_in_the_message_works(images):
    with pytest.raises(InvalidImageError) as caught:
        as_images(images)
    code = re.search(r"with (\S*(?:np\.|images|image\.).*)", str(caught.value))[1]
    converted = eval(code, {"np": np, "images": images, "image": images})
    assert as_images(converted).dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (None, r"Expected one uint8 array of shape .*, got NoneType: "),
        ("face.png", r"Expected one uint8 array of shape .*, got str: "),
        ([], "got list: "),
        (np.zeros((96, 96), np.uint8), r"got \(96, 96\).*cv2.resize\(image, \(48, 48\)"),
        (np.zeros((5, 96, 96), np.uint8), r"got \(5, 96, 96\).*scale each image"),
        (np.zeros((48, 48, 3), np.uint8), r"got \(48, 48, 3\).*colour into grey first, with cv2.cvtColor\S+ \S+$"),
        (np.zeros((2, 48, 48, 4), np.uint8), r"got \(2, 48, 48, 4\).*colour into grey"),
        (np.zeros((640, 480, 3), np.uint8), r"got \(640, 480, 3\).*grey first.*and scale to 48x48"),
        (np.zeros((0,), np.uint8), r"got \(0,\)"),
        (np.uint8(3), "got uint8: "),
        (np.full((1, 48, 48), 256), "type uint8, got int64, with values from 256 to 256: scale them to 0..255"),
        (np.full((1, 48, 48), -1.5), "type uint8, got float64, with values from -1.5 to -1.5"),
        (np.full((1, 48, 48), np.nan), "NaN or infinite"),
        (np.zeros((1, 48, 48), np.float16), r"type uint8, got float16, with values from 0 to 1: convert with \(images"),
        (np.zeros((1, 48, 48), "U3"), "type uint8, got <U3"),
    ],
)
def test_the_message_names_the_problem_and_the_conversion(images, sentence):
    with pytest.raises(InvalidImageError, match=sentence) as caught:
        as_images(images)
    assert "\n" not in str(caught.value)


@given(
    npst.arrays(
        st.one_of(npst.scalar_dtypes(), npst.unicode_string_dtypes()),
        npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    )
)
def test_an_array_of_any_other_shape_is_refused(images):
    with pytest.raises(InvalidImageError):
        as_images(images)


def test_invalid_images_cause_no_request(client, backend):
    for images in (GREY.astype(np.int64), GREY[:, :47], GREY / 255, GREY.tolist()):
        with pytest.raises(ValueError, match="images"):
            client.analyze(images)
    assert backend.asked == []
