import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DebianArchive } from '../debian-archive.js';
import { run } from '../run.js';
import { EDITS } from './edits.js';

const CONFIG = fileURLToPath(new URL('../../../../test/vm/defect-kernel/config', import.meta.url));

/** New enough for every mechanism that the product has. */
const SOURCE = 'linux-source-6.12';

/**
 * The image of a small kernel with the old faults, in the cache; built when Debian's source, the
 * configuration or the edits are other ones than last time. That takes about 11 minutes of one CPU.
 */
export async function buildDefectKernel(archive: DebianArchive, cache: string): Promise<string> {
  const version = await archive.newest(SOURCE, '');
  const inputs = createHash('sha256').update(version).update(readFileSync(CONFIG));
  const digest = inputs.update(JSON.stringify(EDITS)).digest('hex').slice(0, 12);
  const image = path.join(cache, `defect-${version.replace(/-.*/, '')}-${digest}.bzImage`);
  if (existsSync(image)) return image;
  console.error(`kernels: building the defect kernel from ${SOURCE} ${version}`);
  const folder = await mkdtemp(path.join(cache, 'defect-build-'));
  try {
    await archive.unpack(SOURCE, version, folder);
    const tar = path.join(folder, 'usr/src', `${SOURCE}.tar.xz`);
    await run('tar', ['-xf', tar], { cwd: folder });
    await rm(tar);
    const tree = path.join(folder, SOURCE);
    for (const { file, find, replace } of EDITS) await edit(path.join(tree, file), find, replace);
    await make(tree, [`KCONFIG_ALLCONFIG=${CONFIG}`, 'allnoconfig']);
    await checkConfiguration(path.join(tree, '.config'));
    await make(tree, [`-j${availableParallelism()}`, 'bzImage']);
    await copyFile(path.join(tree, 'arch/x86/boot/bzImage'), `${image}.new`);
    await rename(`${image}.new`, image);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return image;
}

function make(tree: string, args: string[]): Promise<Buffer> {
  return run('nice', ['-n', '19', 'make', '--silent', ...args], {
    cwd: tree,
    env: { KBUILD_BUILD_USER: 'skbwhy', KBUILD_BUILD_HOST: 'guest' },
  });
}

/** @throws Error when what is to be replaced is not there exactly once: the source has changed */
async function edit(file: string, find: string, replace: string): Promise<void> {
  const parts = (await readFile(file, 'utf8')).split(find);
  if (parts.length !== 2)
    throw new Error(`${file}: ${parts.length - 1} places instead of one: ${find}`);
  await writeFile(file, parts.join(replace));
}

/** @throws Error when the kernel's build dropped a line of ours, for a dependency that is not met */
async function checkConfiguration(file: string): Promise<void> {
  const made = new Set((await readFile(file, 'utf8')).split('\n'));
  const wanted = readFileSync(CONFIG, 'utf8').split('\n');
  const missing = wanted.filter((line) => line.startsWith('CONFIG_') && !made.has(line));
  if (missing.length > 0) throw new Error(`the kernel cannot have ${missing.join(' ')}`);
}
