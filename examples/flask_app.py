"""A picture is uploaded, and its faces come back as JSON, with Flask.

    pip install "mien-client[pictures]" flask
    flask --app flask_app run --port 8000
    curl -F picture=@astronaut.jpg localhost:8000/faces

``MIEN_SERVER`` names the model server, by default localhost:8500.
"""

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask, abort, request
from mien_client import Client, MienError, PictureError

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 20 * 1024**2
# One client for all threads. Workers may be forked after this: each gets connections of its own.
client = Client(os.environ.get("MIEN_SERVER", "localhost:8500"))


@app.post("/faces")
def faces() -> Mapping[str, Any]:
    """Return the faces in the uploaded picture."""
    if "picture" not in request.files:
        abort(400, "Expected a file in the form field 'picture'")
    try:
        return client.analyze_pictures(request.files["picture"].stream.read()).to_dict()
    except PictureError as error:  # The upload is not a valid picture.
        abort(422, str(error))
    except MienError as error:  # Its text names servers, which callers need not know.
        app.logger.exception("The models did not answer")
        abort(503 if error.retryable else 502, "The models did not answer")
