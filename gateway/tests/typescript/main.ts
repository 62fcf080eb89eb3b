// Calls a gateway through types that were generated from its OpenAPI document.
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./gateway.js";

type Problem = components["schemas"]["Problem"];

const { POST, GET } = createClient<paths>({ baseUrl: process.env.MIEN_GATEWAY! });

// A picture as base64 in JSON.
const picture = await readFile(process.env.MIEN_PICTURE!);
const { data, error } = await POST("/v1/analyze", { body: { images: [picture.toString("base64")] } });
if (error) throw new Error((error as Problem).detail);
const [face] = data.faces;
const nose: number = face!.keypoints!.nose_tip.x;
if (!(nose > 0 && nose < data.pictures[0]!.width)) throw new Error(`the nose is at ${nose}`);
console.log(`${face!.emotion} of ${data.faces.length} face`);

// A problem has a type of its own.
const crops = new Blob([new Uint8Array(2 * 48 * 48)]);
const send = {
  body: crops as unknown as string,
  bodySerializer: (body: unknown) => body as Blob,
  headers: { "content-type": "application/octet-stream" },
};
const missing = await POST("/v1/analyze", { ...send, params: { query: { emotion: "99" } } });
const problem = missing.error as Problem;
console.log(`${problem.type.split(":").at(-1)} is ${problem.retryable ? "worth another try" : "final"}`);

// Ready crops.
const answer = await POST("/v1/analyze", { ...send, params: { query: { detect: "never", partial: true } } });
console.log(`${answer.data!.pictures.length} crops`);

const models = await GET("/v1/models");
if (models.data!.models["emotion"]!.canary_percent !== 0) throw new Error("expected no canary");
