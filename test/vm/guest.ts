import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { writeInitramfs } from './initramfs.js';
import type { Kernel } from './kernel.js';

/** The checkout: what a guest has at /usr/local/lib/skbwhy. */
const TREE = fileURLToPath(new URL('../../..', import.meta.url));

/** Where the command runs, inside. */
const FOLDER = '/usr/local/lib/skbwhy';

/** About one boot in eighty hangs on a busy machine. */
const BOOT_MS = 60_000;
const BOOTS = 3;

/**
 * QEMU 7.2's TCG with several threads runs, once in a while, code that the kernel has just patched as it
 * was while it was patched: an int3 that nobody waits for any more. Jump labels and ftrace's own
 * function tracer meet it as programs at functions do; with one thread none was seen.
 */
const EMULATORS_FAULT = /int3: 0000 \[#1\]/;

export interface GuestOptions {
  /** added to the kernel's command line */
  parameters?: readonly string[];
  /** environment of the command */
  env?: Readonly<Record<string, string>>;
  /** a folder of this machine that the command can write to, as /run/guest/files */
  files?: string;
  memoryMiB?: number;
  /** the whole run, ms; five minutes unless told */
  timeoutMs?: number;
  /** another tree than this checkout */
  tree?: string;
}

export interface GuestResult {
  status: number;
  stdout: string;
  stderr: string;
  /** from QEMU's start to the command's */
  bootMs: number;
}

/**
 * Boots a kernel under QEMU's software emulation and runs a bash script in it as root, in the working
 * tree. Emulated throughout: no /dev/kvm, no root on this machine.
 * @throws Error when the guest does not start its command, or does not end it
 */
export async function runInGuest(
  kernel: Kernel,
  script: string,
  options: GuestOptions = {},
): Promise<GuestResult> {
  const folder = await mkdtemp(path.join(tmpdir(), 'skbwhy-guest-'));
  try {
    await writeInitramfs(kernel, path.join(folder, 'initramfs'));
    await writeFile(path.join(folder, 'settings'), settings(kernel, options));
    await writeFile(path.join(folder, 'command'), command(script, options));
    for (let boot = 1; ; boot++) {
      const result = await bootOnce(kernel, folder, options);
      if (result) return result;
      if (boot === BOOTS)
        throw new Error(
          `${kernel.release} was booted ${BOOTS} times in vain: ${(await consoleOf(folder)) || 'it says nothing'}`,
        );
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What a guest leaves in its folder. */
const LEFT = ['started', 'status', 'stdout', 'stderr', 'console'];

/** Null: it hung before the command began, or fell to the emulator's fault. */
async function bootOnce(
  kernel: Kernel,
  folder: string,
  options: GuestOptions,
): Promise<GuestResult | null> {
  const timeoutMs = options.timeoutMs ?? 300_000;
  await Promise.all(LEFT.map((name) => rm(path.join(folder, name), { force: true })));
  const started = () => existsSync(path.join(folder, 'started'));
  const begin = Date.now();
  const qemu = spawnQemu(kernel, folder, options);
  const end = once(qemu, 'close') as Promise<[number | null]>;
  end.catch(() => undefined); // awaited below
  try {
    while (!started()) {
      if (qemu.exitCode !== null || qemu.signalCode !== null) break;
      if (Date.now() - begin > BOOT_MS) return null;
      await Promise.race([sleep(100), end]);
    }
    const bootMs = Date.now() - begin;
    const timer = setTimeout(() => qemu.kill('SIGKILL'), timeoutMs);
    await end;
    clearTimeout(timer);
    const read = (name: string) => readFile(path.join(folder, name), 'utf8').catch(() => '');
    const status = await read('status');
    if (status === '') {
      if (EMULATORS_FAULT.test(await read('console'))) {
        console.error(`guest ${kernel.release} fell to the emulator's int3`);
        return null;
      }
      const why =
        qemu.signalCode === 'SIGKILL' ? `it took longer than ${timeoutMs / 1000} s` : 'it died';
      throw new Error(
        `guest ${kernel.release}: ${why}\n${await consoleOf(folder)}\n${await read('qemu')}\n${await read('stderr')}`,
      );
    }
    return {
      status: Number(status),
      stdout: await read('stdout'),
      stderr: await read('stderr'),
      bootMs,
    };
  } finally {
    if (qemu.exitCode === null && qemu.signalCode === null) {
      qemu.kill('SIGKILL');
      await end;
    }
  }
}

async function consoleOf(folder: string): Promise<string> {
  const text = await readFile(path.join(folder, 'console'), 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-25).join('\n');
}

function settings({ modules }: Kernel, { files }: GuestOptions): string {
  return `MODULES=${quoted(modules ?? '')}\nFILES=${files === undefined ? '' : 1}\n`;
}

function command(script: string, { env = {} }: GuestOptions): string {
  const variables = { PATH: process.env['PATH'] ?? '', HOME: '/root', LANG: 'C.UTF-8', ...env };
  return [
    ...Object.entries(variables).map(([key, value]) => `export ${key}=${quoted(value)}`),
    'ulimit -l unlimited',
    `cd ${FOLDER} || exit 127`,
    script,
    '',
  ].join('\n');
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

function spawnQemu(kernel: Kernel, folder: string, options: GuestOptions): ChildProcess {
  const { parameters = [], memoryMiB = 512, tree = TREE, files } = options;
  const share = (tag: string, path: string, more = '') => [
    '-fsdev',
    `local,id=${tag},path=${path},security_model=none${more}`,
    '-device',
    `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
  ];
  const readOnly = ',readonly=on,multidevs=remap';
  const line = [
    'console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nokaslr audit=0 nowatchdog',
    // the emulated clock is steady, and nobody needs good random numbers here
    'tsc=reliable no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1',
    ...parameters,
  ].join(' ');
  // it ends with this process, and lets others go first
  const before = ['--pdeathsig', 'KILL', 'nice', '-n', '10'];
  const errors = openSync(path.join(folder, 'qemu'), 'w');
  const qemu = spawn(
    'setpriv',
    [
      ...[...before, 'qemu-system-x86_64', '-accel', 'tcg,thread=multi', '-cpu', 'max'],
      ...['-M', 'q35,usb=off,vmport=off,i8042=off', '-smp', '2', '-m', String(memoryMiB)],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-rtc', 'base=utc'],
      ...['-kernel', kernel.image, '-initrd', path.join(folder, 'initramfs'), '-append', line],
      ...['-serial', `file:${path.join(folder, 'console')}`, '-device', 'virtio-rng-pci'],
      ...share('control', folder),
      ...share('machine', '/', readOnly),
      ...share('tree', tree, readOnly),
      ...(files === undefined ? [] : share('files', files)),
    ],
    { stdio: ['ignore', 'ignore', errors] },
  );
  closeSync(errors);
  return qemu;
}
