import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const SOURCES = join(ROOT, 'test/bench');
const HEADERS = join(ROOT, 'bpf');

/** What is compiled for measuring, in a folder of its own. */
export interface Built {
  /** the folder; anything may be put there */
  folder: string;
  /** eBPF object that fills a ring */
  producer: string;
  /** eBPF object with empty programs */
  empty: string;
  /** shared library: libbpf's consumer */
  consumer: string;
  /** program that makes traffic */
  traffic: string;
  remove(): void;
}

/** Compiles the C sources beside this file, with clang alone. Throws when clang does. */
export function build(): Built {
  const folder = mkdtempSync(join(tmpdir(), 'skbwhy-bench-'));
  const clang = (output: string, ...args: string[]) => {
    const path = join(folder, output);
    execFileSync('clang', ['-O2', '-Wall', `-I${HEADERS}`, ...args, '-o', path], {
      cwd: SOURCES,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    return path;
  };
  // <linux/types.h> wants the machine's <asm/types.h>
  const asm = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
    .map((machine) => `/usr/include/${machine}`)
    .filter((path) => existsSync(path))
    .flatMap((path) => ['-idirafter', path]);
  const bpf = ['-target', 'bpf', '-mcpu=v3', '-g', ...asm, '-c'];
  return {
    folder,
    producer: clang('producer.bpf.o', ...bpf, 'producer.bpf.c'),
    empty: clang('empty.bpf.o', ...bpf, 'empty.bpf.c'),
    // the library by its full name: without the development package's link
    consumer: clang('consumer.so', '-shared', '-fPIC', 'consumer.c', '-l:libbpf.so.1'),
    traffic: clang('traffic', 'traffic.c'),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
