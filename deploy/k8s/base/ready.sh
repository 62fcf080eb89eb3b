# Whether both models can be asked. The status URL answers 200 while a model is still loading, so its answer has to be
# read. The image has no curl.
for model in emotion keypoints; do
  exec 3<>"/dev/tcp/127.0.0.1/${REST_API_PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "$model" >&3
  grep -q '"AVAILABLE"' <&3 || exit 1
done
