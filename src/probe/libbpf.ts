/**
 * libbpf and a few calls of libc through ffi-napi: the control plane only (a call costs 6 to 36 µs).
 * Loaded on first use, because explaining a session must work without native packages.
 */
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';
import { SkbwhyError } from '../event/errors.js';

/** An address, as ffi gives and takes it. */
export type Pointer = Buffer;

interface Ffi {
  Library(
    name: string,
    functions: Record<string, [string, string[]]>,
  ): Record<string, (...args: unknown[]) => unknown>;
  errno(): number;
}

export interface Ref {
  NULL: Pointer;
  isNull(pointer: Pointer): boolean;
  /** bytes at a pointer's address; dangling once they are unmapped */
  reinterpret(pointer: Pointer, size: number): Buffer;
  hexAddress(pointer: Pointer): string;
  readPointer(buffer: Buffer, offset: number, size: number): Pointer;
  readCString(buffer: Buffer, offset: number): string;
}

export interface Libbpf {
  bpf_object__open_mem(bytes: Buffer, size: number, options: Pointer): Pointer;
  bpf_object__load(object: Pointer): number;
  bpf_object__close(object: Pointer): void;
  bpf_object__find_program_by_name(object: Pointer, name: string): Pointer;
  bpf_object__find_map_by_name(object: Pointer, name: string): Pointer;
  bpf_program__set_type(program: Pointer, type: number): number;
  bpf_program__set_expected_attach_type(program: Pointer, type: number): number;
  bpf_program__set_autoload(program: Pointer, autoload: boolean): number;
  bpf_program__set_log_buf(program: Pointer, buffer: Buffer, size: number): number;
  bpf_program__fd(program: Pointer): number;
  bpf_program__attach(program: Pointer): Pointer;
  bpf_link__destroy(link: Pointer): number;
  bpf_map__set_max_entries(map: Pointer, entries: number): number;
  bpf_map__fd(map: Pointer): number;
  bpf_map_update_elem(fd: number, key: Buffer, value: Buffer, flags: number): number;
  bpf_map_lookup_elem(fd: number, key: Buffer, value: Buffer): number;
  bpf_map_delete_elem(fd: number, key: Buffer): number;
  bpf_obj_get_info_by_fd(fd: number, info: Buffer, length: Buffer): number;
  bpf_enable_stats(type: number): number;
  libbpf_num_possible_cpus(): number;
  libbpf_set_print(callback: Pointer): Pointer;
}

export interface Libc {
  mmap(at: Pointer, size: number, prot: number, flags: number, fd: number, offset: number): Pointer;
  munmap(at: Pointer, size: number): number;
  setns(fd: number, type: number): number;
  syscall(number: number, a: number, b: Buffer, c: number): number;
  close(fd: number): number;
  sysconf(name: number): number;
}

export interface Native {
  ffi: Ffi;
  ref: Ref;
  bpf: Libbpf;
  libc: Libc;
}

const P = 'pointer';
const FUNCTIONS: Record<keyof Libbpf, [string, string[]]> = {
  bpf_object__open_mem: [P, [P, 'size_t', P]],
  bpf_object__load: ['int', [P]],
  bpf_object__close: ['void', [P]],
  bpf_object__find_program_by_name: [P, [P, 'string']],
  bpf_object__find_map_by_name: [P, [P, 'string']],
  bpf_program__set_type: ['int', [P, 'int']],
  bpf_program__set_expected_attach_type: ['int', [P, 'int']],
  bpf_program__set_autoload: ['int', [P, 'bool']],
  bpf_program__set_log_buf: ['int', [P, P, 'size_t']],
  bpf_program__fd: ['int', [P]],
  bpf_program__attach: [P, [P]],
  bpf_link__destroy: ['int', [P]],
  bpf_map__set_max_entries: ['int', [P, 'uint32']],
  bpf_map__fd: ['int', [P]],
  bpf_map_update_elem: ['int', ['int', P, P, 'uint64']],
  bpf_map_lookup_elem: ['int', ['int', P, P]],
  bpf_map_delete_elem: ['int', ['int', P]],
  bpf_obj_get_info_by_fd: ['int', ['int', P, P]],
  bpf_enable_stats: ['int', ['int']],
  libbpf_num_possible_cpus: ['int', []],
  libbpf_set_print: [P, [P]],
};

let loaded: Native | undefined;

/**
 * ffi-napi with the very ref-napi instance it uses itself (a second one would not know its types).
 * @throws SkbwhyError 'library-missing'
 */
export function loadFfi(): { ffi: Ffi; ref: Ref } {
  const require = createRequire(import.meta.url);
  try {
    const path = require.resolve('ffi-napi');
    const own = createRequire(path);
    const ffi = require(path) as Ffi;
    let ref: Ref;
    try {
      ref = own('@2060.io/ref-napi') as Ref;
    } catch {
      ref = own('ref-napi') as Ref;
    }
    return { ffi, ref };
  } catch (error) {
    throw new SkbwhyError(
      'library-missing',
      'tracing needs the native packages ffi-napi and ref-napi, which were not built: run `npm rebuild ffi-napi ref-napi` (needs python3, make and g++)',
      { cause: error },
    );
  }
}

/**
 * A shared library by its versioned name.
 * @throws SkbwhyError 'library-missing' with the Debian package that has it
 */
export function openLibrary<T>(
  ffi: Ffi,
  name: string,
  functions: Record<keyof T & string, [string, string[]]>,
  debianPackage: string,
): T {
  try {
    return ffi.Library(name, functions) as T;
  } catch (error) {
    throw new SkbwhyError(
      'library-missing',
      `${name} is missing: install it (apt-get install ${debianPackage})`,
      { cause: error },
    );
  }
}

/**
 * The libraries, loaded once.
 * @throws SkbwhyError 'library-missing'
 */
export function native(): Native {
  if (loaded) return loaded;
  const { ffi, ref } = loadFfi();
  const bpf = openLibrary<Libbpf>(ffi, 'libbpf.so.1', FUNCTIONS, 'libbpf1');
  const libc = openLibrary<Libc>(
    ffi,
    'libc.so.6',
    {
      mmap: [P, [P, 'size_t', 'int', 'int', 'int', 'int64']],
      munmap: ['int', [P, 'size_t']],
      setns: ['int', ['int', 'int']],
      syscall: ['long', ['long', 'long', P, 'long']],
      close: ['int', ['int']],
      sysconf: ['long', ['int']],
    },
    'libc6',
  );
  // libbpf would write to stderr by itself; its callback takes a va_list, which ffi cannot give
  bpf.libbpf_set_print(ref.NULL);
  loaded = { ffi, ref, bpf, libc };
  return loaded;
}

/** `EPERM` and the like, for messages. */
export function errnoName(errno: number): string {
  return getSystemErrorName(-Math.abs(errno));
}
