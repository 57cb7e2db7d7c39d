#!/bin/sh
# Pictures, adapters and a video with curl: sh curl.sh [ADDRESS]
set -eu
address=${1:-http://127.0.0.1:8000}
field() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

curl -sSf "$address/v1/adapters" | field '["data"][0]["name"]'

# a picture, as a link to its file
url=$(curl -sSf "$address/v1/images/generations" -H 'Content-Type: application/json' -d '{
  "prompt": "a large red star", "size": "64x64", "steps": 4, "seed": 7,
  "loras": [{"name": "neon", "scale": 0.8}, {"name": "sketch", "scale": 0.3}],
  "response_format": "url"
}' | field '["data"][0]["url"]')
curl -sSf "$url" -o curl.png

# a video that begins with it: a job, whose events end when it ends
id=$(curl -sSf "$address/v1/videos" -F prompt='a red star that turns' -F frames=9 -F size=64x64 \
  -F steps=4 -F input_reference=@curl.png -F 'loras=[{"name": "neon"}]' | field '["id"]')
curl -sSfN "$address/v1/jobs/$id/events" | grep '^event:'
curl -sSf "$address/v1/videos/$id/content" -o curl.mp4

# what is wrong is told in OpenAI's words
curl -sS "$address/v1/images/generations" -H 'Content-Type: application/json' \
  -d '{"prompt": "a star", "loras": [{"name": "neom"}]}' | field '["error"]["message"]'
