import { existsSync, readdirSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { DebianArchive } from './debian-archive.js';
import { buildDefectKernel } from './defect-kernel/build.js';
import { SWITCHES } from './defect-kernel/edits.js';
import { run } from './run.js';
import { uncompressKernel } from './uncompress.js';

/** A kernel that a guest can boot. */
export interface Kernel {
  /** as KERNELS names it */
  name: string;
  /** `uname -r` */
  release: string;
  /** what QEMU loads */
  image: string;
  /** a folder with lib/modules/RELEASE and the kernel's `config`; null: everything is built in */
  modules: string | null;
  /** which of the defect kernel's switches it has, as its command line names them */
  switches: readonly string[];
}

/**
 * The kernels of the matrix, by name: Debian's of each series, where the newest is of whatever series
 * it is, and the one with the old faults.
 */
export const KERNELS = {
  '5.10': '5.10.',
  '6.1': '6.1.',
  '6.12': '6.12.',
  newest: '',
  defect: null,
} as const;

export type KernelName = keyof typeof KERNELS;

/** What of a kernel's packages a guest needs. */
const PACKAGES = /^linux-(image|binary|modules|base)-\d/;

/** Where kernels stay once they were fetched or built. */
export const CACHE = path.join(
  process.env['XDG_CACHE_HOME'] ?? path.join(homedir(), '.cache'),
  'skbwhy/kernels',
);

let archive: Promise<DebianArchive> | undefined;

/** Debian's archive, asked once a run. */
const openArchive = (): Promise<DebianArchive> =>
  (archive ??= mkdir(CACHE, { recursive: true }).then(() =>
    DebianArchive.open(path.join(CACHE, 'apt')),
  ));

/** The kernels that the environment's KERNELS names (separated by commas); all without it. */
export function chosenKernels(): KernelName[] {
  const all = Object.keys(KERNELS) as KernelName[];
  const words = (process.env['KERNELS'] ?? all.join()).split(',').map((word) => word.trim());
  for (const word of words)
    if (!(word in KERNELS)) throw new Error(`KERNELS: there is no ${word}, only ${all.join(', ')}`);
  return words as KernelName[];
}

/** Fetches or builds a kernel, unless it is there already. */
export async function getKernel(name: KernelName): Promise<Kernel> {
  const series = KERNELS[name];
  if (series !== null) return debianKernel(name, series);
  const image = readyDefectKernel() ?? (await buildDefectKernel(await openArchive(), CACHE));
  const code = await uncompressKernel(image);
  return {
    name,
    release: path.basename(image, '.bzImage'),
    image,
    modules: null,
    switches: SWITCHES.filter((each) => code.includes(each)),
  };
}

/** An image of the defect kernel in the folder that SKBWHY_KERNEL_CACHE names. */
function readyDefectKernel(): string | null {
  const folder = process.env['SKBWHY_KERNEL_CACHE'];
  if (!folder) return null;
  const image = readdirSync(folder).find((file) => /^defect-.*\.bzImage$/.test(file));
  return image ? path.join(folder, image) : null;
}

async function debianKernel(name: KernelName, series: string): Promise<Kernel> {
  const debian = await openArchive();
  const meta = 'linux-image-amd64';
  const version = await debian.newest(meta, series);
  const folder = path.join(CACHE, `debian-${version}`);
  if (!existsSync(folder)) {
    const packages = await debian.withDependencies(meta, version, PACKAGES);
    packages.delete(meta);
    const unfinished = await mkdtemp(`${folder}.`);
    try {
      for (const [each, itsVersion] of packages) await debian.unpack(each, itsVersion, unfinished);
      await arrange(unfinished);
      await rename(unfinished, folder);
    } finally {
      await rm(unfinished, { recursive: true, force: true });
    }
  }
  const [release = ''] = await readdir(path.join(folder, 'lib/modules'));
  return { name, release, image: path.join(folder, 'vmlinux'), modules: folder, switches: [] };
}

/** Makes unpacked packages, of whatever Debian release, look alike: vmlinux, config, lib/modules. */
async function arrange(folder: string): Promise<void> {
  const at = (...names: string[]) => path.join(folder, ...names);
  if (existsSync(at('usr/lib/modules'))) {
    await mkdir(at('lib'), { recursive: true });
    await rename(at('usr/lib/modules'), at('lib/modules'));
  }
  const [release = ''] = await readdir(at('lib/modules'));
  const modules = ['lib/modules', release] as const;
  const either = (inBoot: string, inModules: string) =>
    [at('boot', `${inBoot}-${release}`), at(...modules, inModules)].find(existsSync) ?? inBoot;
  await copyFile(either('config', 'config'), at('config'));
  // QEMU starts it at once, where the compressed one would uncompress itself under emulation
  await writeFile(at('vmlinux'), await uncompressKernel(either('vmlinuz', 'vmlinuz')));
  await run('/sbin/depmod', ['-b', folder, release]);
}
