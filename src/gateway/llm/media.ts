/** Base64 in a request: many bytes and few tokens. */
export interface Media {
  images: number;
  imageBytes: number;
  documentBytes: number;
}

export function noMedia(): Media {
  return { images: 0, imageBytes: 0, documentBytes: 0 };
}

export function addMedia(media: Media, kind: "image" | "document", data: unknown): void {
  if (typeof data !== "string") return;
  if (kind === "document") media.documentBytes += data.length;
  else {
    media.images += 1;
    media.imageBytes += data.length;
  }
}
