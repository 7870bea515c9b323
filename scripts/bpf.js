// Builds bpf/skbwhy.bpf.c for x86-64 and arm64, and notes the hash of the sources beside the
// objects. The bytes are reproducible with Debian's clang 14 only (16 makes other code).
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../bpf', import.meta.url));
const TARGETS = [
  { name: 'x86-64', define: '__TARGET_ARCH_x86' },
  { name: 'arm64', define: '__TARGET_ARCH_arm64' },
];

/** SHA-256 over the names and contents of the sources. */
export function sourceHash() {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder)
    .filter((file) => /\.[ch]$/.test(file))
    .sort())
    hash
      .update(`${name}\n`)
      .update(readFileSync(join(folder, name)))
      .update('\n');
  return hash.digest('hex');
}

/** The pinned compiler, or null where it is not installed. */
export function compiler() {
  for (const clang of ['clang-14', 'clang'])
    try {
      const version = execFileSync(clang, ['--version'], { encoding: 'utf8' });
      if (/version 14\./.test(version)) return clang;
    } catch {
      // not installed
    }
  return null;
}

/** Compiles for one target into `output`. */
export function build(clang, target, output) {
  const { define } = TARGETS.find(({ name }) => name === target);
  // <linux/types.h> wants the machine's <asm/types.h>, which is the same on all of these
  const asm = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
    .map((machine) => `/usr/include/${machine}`)
    .filter((path) => existsSync(path))
    .flatMap((path) => ['-idirafter', path]);
  execFileSync(
    clang,
    [
      ...[
        '-target',
        'bpf',
        '-O2',
        '-g',
        '-mcpu=v3',
        '-fno-strict-aliasing',
        '-Wall',
        '-Werror',
        `-D${define}`,
      ],
      ...[`-ffile-prefix-map=${folder}=.`, ...asm],
      ...['-c', 'skbwhy.bpf.c', '-o', output],
    ],
    { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] },
  );
  execFileSync(clang.replace('clang', 'llvm-strip'), ['-g', output]);
}

export const targets = TARGETS.map(({ name }) => name);

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const clang = compiler();
  if (!clang) {
    console.error(
      'skbwhy: clang 14 is needed to build the eBPF objects (apt-get install clang-14)',
    );
    process.exit(1);
  }
  for (const target of targets) build(clang, target, join(folder, `skbwhy.${target}.o`));
  writeFileSync(join(folder, 'skbwhy.sha256'), sourceHash() + '\n');
}
