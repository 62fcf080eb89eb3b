// The request as code that can be pasted into a terminal or a program.

import { address, keys, query } from "./api.js";
import { byId } from "./dom.js";
import { onKeys } from "./keys.js";

let files = [];
let options = {};
let language = "curl";

const LANGUAGES = { curl, python, node, go };

/** Connect the choice of language and the copy button. */
export function connectSnippets() {
  byId("language").addEventListener("change", ({ target }) => {
    language = target.value;
    draw();
  });
  byId("copy").addEventListener("click", copy);
  onKeys(draw);
}

/** Show the request about some files as code. */
export function showSnippets(chosen, given) {
  files = chosen.length > 0 ? chosen.map(({ name, type }) => ({ name, type: type || "image/jpeg" })) : [{ name: "picture.jpg", type: "image/jpeg" }];
  options = given;
  draw();
}

function draw() {
  const url = `${address("v1/analyze")}${query(options)}`;
  byId("code").textContent = LANGUAGES[language](url, Boolean(keys.caller || keys.operator));
}

async function copy() {
  const button = byId("copy");
  const code = byId("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Without https there is no clipboard interface: select the text, and copy the selection.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/** Return text as a word of a POSIX shell. */
export function shellWord(text) {
  return /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// A JSON string is also a string of Python, JavaScript and Go.
const quoted = JSON.stringify;

function curl(url, withKey) {
  const lines = [`curl --fail-with-body ${shellWord(url)}`];
  if (withKey) lines.push('--header "Authorization: Bearer $MIEN_KEY"');
  if (files.length === 1) {
    lines.push(`--header ${shellWord(`Content-Type: ${files[0].type}`)}`, `--data-binary ${shellWord(`@${files[0].name}`)}`);
  } else {
    lines.push(...files.map(({ name, type }) => `--form ${shellWord(`picture=@${quoted(name)};type=${type}`)}`));
  }
  return lines.join(" \\\n  ");
}

function python(url, withKey) {
  const headers = withKey ? ['"Authorization": f"Bearer {os.environ[\'MIEN_KEY\']}"'] : [];
  let body;
  if (files.length === 1) {
    headers.push(`"Content-Type": ${quoted(files[0].type)}`);
    body = `data=Path(${quoted(files[0].name)}).read_bytes()`;
  } else {
    const parts = files.map(({ name, type }) => `("picture", (${quoted(name)}, open(${quoted(name)}, "rb"), ${quoted(type)})),`);
    body = `files=[\n        ${parts.join("\n        ")}\n    ]`;
  }
  const imports = [withKey ? "import os\n" : "", files.length === 1 ? "from pathlib import Path\n" : ""].join("");
  return `${imports}${imports ? "\n" : ""}import requests

response = requests.post(
    ${quoted(url)},
    ${body},${headers.length ? `\n    headers={${headers.join(", ")}},` : ""}
    timeout=30,
)
response.raise_for_status()
for face in response.json()["faces"]:
    print(face["emotion"], face["confidence"], face["box"])
`;
}

function node(url, withKey) {
  const headers = withKey ? ["Authorization: `Bearer ${process.env.MIEN_KEY}`"] : [];
  let body;
  let before = "";
  if (files.length === 1) {
    headers.push(`"Content-Type": ${quoted(files[0].type)}`);
    body = `await readFile(${quoted(files[0].name)})`;
  } else {
    const parts = files.map(
      ({ name, type }) =>
        `body.append("picture", new Blob([await readFile(${quoted(name)})], { type: ${quoted(type)} }), ${quoted(name)});\n`,
    );
    before = `const body = new FormData();\n${parts.join("")}`;
    body = "";
  }
  const fields = ['method: "POST"'];
  if (headers.length) fields.push(`headers: { ${headers.join(", ")} }`);
  fields.push(body ? `body: ${body}` : "body");
  return `import { readFile } from "node:fs/promises";

${before}const response = await fetch(${quoted(url)}, {
  ${fields.join(",\n  ")},
});
const answer = await response.json();
if (!response.ok) throw new Error(answer.detail);
for (const face of answer.faces) console.log(face.emotion, face.confidence, face.box);
`;
}

function go(url, withKey) {
  const several = files.length > 1;
  const imports = ["bytes", "encoding/json", "fmt", "log", "net/http", "os"];
  if (several) imports.push("mime/multipart", "net/textproto");
  imports.sort();
  const single = `	picture, err := os.ReadFile(${quoted(files[0].name)})
	if err != nil {
		log.Fatal(err)
	}
	request, err := http.NewRequest("POST", ${quoted(url)}, bytes.NewReader(picture))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", ${quoted(files[0].type)})
`;
  const list = files.map(({ name, type }) => `{${quoted(name)}, ${quoted(type)}}`).join(", ");
  const multipart = `	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, picture := range [][2]string{${list}} {
		content, err := os.ReadFile(picture[0])
		if err != nil {
			log.Fatal(err)
		}
		header := textproto.MIMEHeader{}
		header.Set("Content-Disposition", fmt.Sprintf("form-data; name=\\"picture\\"; filename=%q", picture[0]))
		header.Set("Content-Type", picture[1])
		part, err := form.CreatePart(header)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := part.Write(content); err != nil {
			log.Fatal(err)
		}
	}
	if err := form.Close(); err != nil {
		log.Fatal(err)
	}
	request, err := http.NewRequest("POST", ${quoted(url)}, &body)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
`;
  return `package main

import (
${imports.map((name) => `	"${name}"`).join("\n")}
)

func main() {
${several ? multipart : single}${withKey ? '	request.Header.Set("Authorization", "Bearer "+os.Getenv("MIEN_KEY"))\n' : ""}	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Detail string
		Faces  []struct {
			Emotion    *string
			Confidence *float64
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		log.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		log.Fatal(answer.Detail)
	}
	for _, face := range answer.Faces {
		if face.Emotion != nil {
			fmt.Println(*face.Emotion, *face.Confidence)
		}
	}
}
`;
}
