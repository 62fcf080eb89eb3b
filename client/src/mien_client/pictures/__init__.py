"""Find the faces in pictures, as the models take them, and map results back to the pixels of the picture.

This needs the extra ``pictures``: ``pip install "mien-client[pictures]"``.

Example:
    >>> from mien_client.pictures import find_faces, read_picture
    >>> crops = find_faces(read_picture("astronaut.jpg"))
    >>> for crop, face in zip(crops, client.analyze_iter(crop.image for crop in crops)):
    ...     in_picture = crop.to_picture(face.keypoints)  # of the fifteen points, (x, y) in pixels of astronaut.jpg
"""

try:
    import cv2
    import PIL  # noqa: F401

    cv2.CascadeClassifier  # noqa: B018
except (ImportError, AttributeError) as error:
    raise ImportError(
        "Finding faces needs Pillow and OpenCV 4, whose cascade classifier OpenCV 5 has dropped: "
        "pip install 'mien-client[pictures]'"
    ) from error

from mien_client.pictures.decoding import MAX_FILE_BYTES, MAX_PIXELS, Picture, read_picture
from mien_client.pictures.finding import FACE_CROP_DOWN, FACE_CROP_SCALE, MIN_SCORE, FaceCrop, find_faces

__all__ = [
    "FACE_CROP_DOWN",
    "FACE_CROP_SCALE",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MIN_SCORE",
    "FaceCrop",
    "Picture",
    "find_faces",
    "read_picture",
]
