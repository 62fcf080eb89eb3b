"""A picture is uploaded, and its faces come back as JSON, with FastAPI.

    pip install "mien-client[pictures]" fastapi python-multipart uvicorn
    uvicorn fastapi_app:app
    curl -F picture=@astronaut.jpg localhost:8000/faces

``MIEN_SERVER`` names the model server, by default localhost:8500.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, UploadFile
from mien_client import AsyncClient, MienError, PictureError

MAX_UPLOAD = 20 * 1024**2


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share one client between all requests."""
    async with AsyncClient(os.environ.get("MIEN_SERVER", "localhost:8500")) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/faces")
async def faces(request: Request, picture: UploadFile) -> Mapping[str, Any]:
    """Return the faces in the uploaded picture."""
    if (picture.size or 0) > MAX_UPLOAD:
        raise HTTPException(413, f"The picture is larger than {MAX_UPLOAD:,} bytes")
    client: AsyncClient = request.app.state.client
    try:
        analysis = await client.analyze_pictures(await picture.read())
    except PictureError as error:  # The upload is not a valid picture.
        raise HTTPException(422, str(error)) from None
    except MienError as error:  # Its text names servers, which callers need not know.
        raise HTTPException(503 if error.retryable else 502, "The models did not answer") from error
    return analysis.to_dict()
