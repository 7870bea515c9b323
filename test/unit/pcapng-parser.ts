import assert from 'node:assert/strict';

/** A second reading of the pcapng format, strict, for little-endian files of one section. */
export interface Capture {
  section: { hardware: string; os: string; application: string; comments: string[] };
  interfaces: Interface[];
  frames: Frame[];
}

export interface Interface {
  name: string;
  description: string;
  linkType: number;
  snapLength: number;
}

export interface Frame {
  interfaceId: number;
  interface: Interface;
  time: bigint;
  bytes: Buffer;
  originalLength: number;
  /** epb_flags, bits 0 and 1 */
  direction: number;
  comments: string[];
}

type Options = Map<number, Buffer[]>;

/** Throws an AssertionError where the file breaks the format. */
export function parsePcapng(file: Buffer): Capture {
  let section: Capture['section'] | null = null;
  const interfaces: Interface[] = [];
  const frames: Frame[] = [];
  for (let at = 0; at < file.length;) {
    const type = file.readUInt32LE(at);
    const length = file.readUInt32LE(at + 4);
    assert.ok(length >= 12 && length % 4 === 0 && at + length <= file.length, `block at ${at}`);
    assert.equal(file.readUInt32LE(at + length - 4), length, 'both lengths of a block');
    const body = file.subarray(at + 8, at + length - 4);
    at += length;
    if (!section) {
      assert.equal(type, 0x0a0d0d0a, 'a section header comes first');
      assert.equal(body.readUInt32LE(0), 0x1a2b3c4d);
      const options = parseOptions(body.subarray(16));
      section = {
        hardware: text(options, 2),
        os: text(options, 3),
        application: text(options, 4),
        comments: comments(options),
      };
    } else if (type === 1) {
      const options = parseOptions(body.subarray(8));
      assert.deepEqual(options.get(9), [Buffer.from([9])], 'times in ns');
      interfaces.push({
        name: text(options, 2),
        description: text(options, 3),
        linkType: body.readUInt16LE(0),
        snapLength: body.readUInt32LE(4),
      });
    } else {
      assert.equal(type, 6);
      const interfaceId = body.readUInt32LE(0);
      const captured = body.readUInt32LE(12);
      const options = parseOptions(body.subarray(20 + ((captured + 3) & ~3)));
      assert.ok(interfaces[interfaceId], 'the interface was described before');
      assert.ok(captured <= interfaces[interfaceId].snapLength);
      frames.push({
        interfaceId,
        interface: interfaces[interfaceId],
        time: (BigInt(body.readUInt32LE(4)) << 32n) | BigInt(body.readUInt32LE(8)),
        bytes: Buffer.from(body.subarray(20, 20 + captured)),
        originalLength: body.readUInt32LE(16),
        direction: options.get(2)![0]!.readUInt32LE(0) & 3,
        comments: comments(options),
      });
    }
  }
  assert.ok(section);
  return { section, interfaces, frames };
}

function parseOptions(bytes: Buffer): Options {
  const options: Options = new Map();
  for (let at = 0; ;) {
    const code = bytes.readUInt16LE(at);
    const length = bytes.readUInt16LE(at + 2);
    at += 4;
    if (code === 0) {
      assert.deepEqual([length, at], [0, bytes.length], 'the end of options ends the block');
      return options;
    }
    options.set(code, [...(options.get(code) ?? []), bytes.subarray(at, at + length)]);
    at += (length + 3) & ~3;
  }
}

function text(options: Options, code: number): string {
  return decode(options.get(code)![0]!);
}

function comments(options: Options): string[] {
  return (options.get(1) ?? []).map(decode);
}

function decode(bytes: Buffer): string {
  return new TextDecoder('utf8', { fatal: true }).decode(bytes);
}
