import { expect, test } from "bun:test";
import { urlOf } from "../../../../src/blobs/s3/http.ts";

const bucket = {
  name: "b",
  endpoint: "https://s3.test:9000",
  region: "r",
  prefix: "p/q/",
  pathStyle: true,
  sse: false,
};

test("the bucket is in the path, or in the host's name", () => {
  const object = { method: "GET", key: "a/x" } as const;
  const list = { method: "GET", key: "", query: { "list-type": "2", prefix: "p/q/" } } as const;
  expect(urlOf(bucket, object).href).toBe("https://s3.test:9000/b/p/q/a/x");
  expect(urlOf(bucket, list).href).toBe("https://s3.test:9000/b/?list-type=2&prefix=p%2Fq%2F");
  const host = { ...bucket, pathStyle: false };
  expect(urlOf(host, object).href).toBe("https://b.s3.test:9000/p/q/a/x");
  expect(urlOf(host, list).href).toBe("https://b.s3.test:9000/?list-type=2&prefix=p%2Fq%2F");
});
