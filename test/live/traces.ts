/** What a run of skbwhy has in the kernel while it lives, and what of it is left afterwards. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadFfi, openLibrary } from '../../src/probe/libbpf.js';

interface Ids {
  bpf_prog_get_next_id(start: number, next: Buffer): number;
  bpf_map_get_next_id(start: number, next: Buffer): number;
  bpf_link_get_next_id(start: number, next: Buffer): number;
}

const KINDS = ['prog', 'map', 'link'] as const;
type Kind = (typeof KINDS)[number];

const SAMPLE_MS = 50;

const libbpf = openLibrary<Ids>(
  loadFfi().ffi,
  'libbpf.so.1',
  {
    bpf_prog_get_next_id: ['int', ['uint32', 'pointer']],
    bpf_map_get_next_id: ['int', ['uint32', 'pointer']],
    bpf_link_get_next_id: ['int', ['uint32', 'pointer']],
  },
  'libbpf1',
);

/** Whether the kernel still has the object with that id. */
function inKernel(kind: Kind, id: number): boolean {
  const next = Buffer.alloc(4);
  return libbpf[`bpf_${kind}_get_next_id`](id - 1, next) === 0 && next.readUInt32LE() === id;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Start time of a process that is no zombie: its identity beside the pid. */
function startTime(pid: number): string | null {
  const stat = read(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return stat === '' || fields[0] === 'Z' || fields[0] === 'X' ? null : fields[19]!;
}

function parent(pid: number): number {
  const stat = read(`/proc/${pid}/stat`);
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
}

/**
 * Follows a process and its descendants from outside, so that what others do on this kernel at the
 * same time does not count.
 */
export class Traces {
  /** ids of programs, maps and links that it had open */
  readonly objects = { prog: new Set<number>(), map: new Set<number>(), link: new Set<number>() };
  /** processes it started, with their start times */
  private readonly processes = new Map<number, string>();
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly pid: number) {
    this.sample();
    this.timer = setInterval(() => this.sample(), SAMPLE_MS).unref();
  }

  private sample(): void {
    const self = startTime(this.pid);
    if (self) this.processes.set(this.pid, self);
    for (const name of list('/proc')) {
      const pid = Number(name);
      if (!(pid > this.pid) || this.processes.has(pid) || !this.processes.has(parent(pid)))
        continue;
      const start = startTime(pid);
      if (start) this.processes.set(pid, start);
    }
    for (const fd of list(`/proc/${this.pid}/fdinfo`)) {
      const text = read(`/proc/${this.pid}/fdinfo/${fd}`);
      for (const kind of KINDS) {
        const match = new RegExp(`^${kind}_id:\\t(\\d+)$`, 'm').exec(text);
        if (match) this.objects[kind].add(Number(match[1]));
      }
    }
  }

  /** Everything of it that still exists, in words. */
  left(): string[] {
    return [
      ...KINDS.flatMap((kind) =>
        [...this.objects[kind]].filter((id) => inKernel(kind, id)).map((id) => `${kind} ${id}`),
      ),
      ...[...this.processes]
        .filter(([pid, start]) => startTime(pid) === start)
        .map(([pid]) => `process ${pid} ${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`),
      ...list('/run/netns').filter((name) => name.startsWith(`skbwhy-${this.pid}-`)),
      ...[`/run/skbwhy/lab-${this.pid}.json`].filter((path) => existsSync(path)),
    ];
  }

  /** Asserts that nothing is left at the latest a second from now; `except` what matches. */
  async assertGone(except?: RegExp): Promise<void> {
    clearInterval(this.timer);
    const wrong = () => this.left().filter((what) => !except?.test(what));
    for (let waited = 0; waited < 1000 && wrong().length > 0; waited += 50) await sleep(50);
    assert.deepEqual(wrong(), []);
  }
}
