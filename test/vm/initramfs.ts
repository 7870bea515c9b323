import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Kernel } from './kernel.js';
import { run } from './run.js';

const INIT = fileURLToPath(new URL('../../../test/vm/init.sh', import.meta.url));

/** What a guest needs before it has a root file system; with those that they depend on. */
const MODULES = ['virtio_pci', '9pnet_virtio', '9p', 'overlay'];

/** Writes the first file system of a guest: busybox, init.sh, and the modules that mount the rest. */
export async function writeInitramfs(kernel: Kernel, file: string): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'skbwhy-initramfs-'));
  try {
    for (const name of ['bin', 'dev', 'proc', 'memory', 'root', 'modules'])
      await mkdir(path.join(folder, name));
    await copyFile('/bin/busybox', path.join(folder, 'bin/busybox'));
    await copyFile(INIT, path.join(folder, 'init'));
    await chmod(path.join(folder, 'init'), 0o755);
    const names: string[] = [];
    for (const source of kernel.modules ? await modulesInOrder(kernel, kernel.modules) : []) {
      const name = path.basename(source).replace(/\.(xz|zst)$/, '');
      names.push(name);
      await writeFile(path.join(folder, 'modules', name), await uncompressed(source));
    }
    await writeFile(path.join(folder, 'modules/order'), names.join('\n'));
    await writeFile(
      file,
      await run('sh', ['-c', 'find . | cpio --create --format=newc --quiet'], { cwd: folder }),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function modulesInOrder({ release }: Kernel, modules: string): Promise<string[]> {
  const files = new Set<string>();
  for (const module of MODULES) {
    const args = ['-d', modules, '-S', release, '--show-depends', module];
    const lines = (await run('/sbin/modprobe', args)).toString().split('\n');
    for (const line of lines) {
      const [verb, file] = line.split(' ');
      if (verb === 'insmod' && file) files.add(file);
    }
  }
  return [...files];
}

function uncompressed(file: string): Promise<Buffer> {
  if (file.endsWith('.xz')) return run('xz', ['-dc', file]);
  if (file.endsWith('.zst')) return run('zstd', ['-dcq', file]);
  return run('cat', [file]);
}
