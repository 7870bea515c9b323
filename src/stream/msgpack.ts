import { Packr } from 'msgpackr';

/** Nested maps and arrays in a message, at most. */
const MAX_DEPTH = 16;

// Plain MessagePack: maps with string keys and no extension, so that any language can read it.
const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

export function pack(value: object): Buffer {
  return packr.pack(value);
}

/**
 * Packs `value` with one more key at its end, whose value is the bytes of `parts` one after the
 * other, copied once.
 */
export function packWithBytes(value: object, key: string, parts: readonly Uint8Array[]): Buffer {
  const head = packr.pack({ ...value, [key]: NO_BYTES });
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  // An empty binary field takes the last two bytes (bin 8); its place is taken by a bin 32.
  const at = head.length - 2;
  const message = Buffer.allocUnsafeSlow(at + 5 + length);
  head.copy(message, 0, 0, at);
  message[at] = BIN_32;
  message.writeUInt32BE(length, at + 1);
  let end = at + 5;
  for (const part of parts) {
    message.set(part, end);
    end += part.length;
  }
  return message;
}

/** The value in `bytes`. Throws an Error where it is not whole or uses more than plain values. */
export function unpack(bytes: Buffer): unknown {
  checkPlain(bytes);
  return packr.unpack(bytes);
}

const NO_BYTES = Buffer.alloc(0);
const BIN_32 = 0xc6;

/** Extensions can make a decoder build other things than data: no message of ours has any. */
function checkPlain(bytes: Buffer): void {
  let at = 0;
  // values still to come, by depth
  const left: number[] = [1];
  while (left.length > 0) {
    if (left.at(-1)! === 0) {
      left.pop();
      continue;
    }
    left[left.length - 1]!--;
    if (at >= bytes.length) throw new Error('it is cut');
    const token = bytes[at++]!;
    let values = 0;
    if (token < 0x80 || token >= 0xe0)
      continue; // small integers
    else if (token < 0x90) values = (token & 15) * 2;
    else if (token < 0xa0) values = token & 15;
    else if (token < 0xc0) at += token & 31;
    else {
      const size = SIZES[token - 0xc0]!;
      if (size < 0) throw new Error('it holds an extension');
      if (at + size > bytes.length) throw new Error('it is cut');
      const length = size === 0 || size > 4 ? 0 : bytes.readUIntBE(at, size);
      at += size;
      if (token >= 0xde) values = length * 2;
      else if (token >= 0xdc) values = length;
      else if (token >= 0xd9 || (token >= 0xc4 && token <= 0xc6)) at += length;
    }
    if (values > 0) {
      if (values > bytes.length - at) throw new Error('it is cut');
      if (left.length >= MAX_DEPTH) throw new Error('it is nested too deep');
      left.push(values);
    }
  }
  if (at !== bytes.length) throw new Error('it has no clear end');
}

/** Bytes after the tokens 0xc0 to 0xdf: of a value, or of a length; −1: not plain. */
const SIZES = [
  0, -1, 0, 0, 1, 2, 4, -1, -1, -1, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, -1, -1, -1, -1, -1, 1, 2, 4, 2, 4,
  2, 4,
];
