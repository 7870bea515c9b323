import { readFile } from 'node:fs/promises';
import { run } from './run.js';

/** Fields of the boot header (Documentation/arch/x86/boot.rst) and what comes before the kernel proper. */
const SETUP_SECTORS = 0x1f1;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const SECTOR = 512;

/** What kernels are compressed with, by the first bytes. */
const TOOLS = [
  ['fd377a585a00', 'xz'],
  ['28b52ffd', 'zstd'],
  ['02214c18', 'lz4'],
  ['1f8b', 'gzip'],
] as const;

/** The ELF kernel that a bzImage holds. */
export async function uncompressKernel(bzImage: string): Promise<Buffer> {
  const bytes = await readFile(bzImage);
  const start = ((bytes[SETUP_SECTORS] || 4) + 1) * SECTOR + bytes.readUInt32LE(PAYLOAD_OFFSET);
  const end = start + bytes.readUInt32LE(PAYLOAD_LENGTH);
  // but for gzip the length of the whole follows, four bytes that the tools do not expect
  const payload = bytes.subarray(start, end);
  const magic = payload.toString('hex', 0, 8);
  const tool = TOOLS.find(([first]) => magic.startsWith(first))?.[1];
  if (!tool) throw new Error(`${bzImage} is compressed with something unknown`);
  return run(tool, ['-dc'], { input: tool === 'gzip' ? payload : payload.subarray(0, -4) });
}
