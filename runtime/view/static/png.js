// Tiles of class ids are PNGs of one fixed layout (runtime/view/encoding.py), so that opacities can be exchanged in place.

const OPACITIES = 8 + 25 + 780 + 8; // after the signature, IHDR, PLTE, and the length and name of tRNS
const COLOURS = 256;
const PIXELS = OPACITIES + COLOURS + 4;

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** The same tile with some classes transparent. */
export function without(data, off) {
  if (!off.size) return data;
  const bytes = new Uint8Array(data.slice(0));
  for (const id of off) bytes[OPACITIES + id] = 0;
  let sum = 0xffffffff;
  for (let at = OPACITIES - 4; at < OPACITIES + COLOURS; at++) sum = TABLE[(sum ^ bytes[at]) & 255] ^ (sum >>> 8);
  new DataView(bytes.buffer).setUint32(OPACITIES + COLOURS, ~sum >>> 0);
  return bytes.buffer;
}

/** The class id of one pixel of a tile. */
export async function idAt(data, column, row) {
  const header = new DataView(data);
  const width = header.getUint32(16);
  const packed = new Uint8Array(data, PIXELS + 8, header.getUint32(PIXELS));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  return rows[row * (width + 1) + 1 + column];
}
