import { statSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Namespaces } from '../../src/lab/namespaces.js';
import type { Built } from './build.js';

const SERVER = '192.0.2.2';
const OPEN_PORT = 8080;
const CLOSED_PORT = 9;

/** Two namespaces joined by a cable, and what passes between them. */
export class Network {
  /** names of the two namespaces */
  readonly names: string[];

  private constructor(
    private readonly namespaces: Namespaces,
    private readonly program: string,
  ) {
    this.names = Object.values(namespaces.names);
  }

  /** Makes them: connections are tracked, and every TCP segment is a packet of its own. */
  static async create(built: Built): Promise<Network> {
    const namespaces = await Namespaces.create(
      ['client', 'server'],
      [
        [
          ['client', 'eth0'],
          ['server', 'eth0'],
        ],
      ],
    );
    const network = new Network(namespaces, built.traffic);
    try {
      for (const [role, host] of [
        ['client', 1],
        ['server', 2],
      ] as const)
        await namespaces.script(
          role,
          `ip link set lo up
          ip addr add 192.0.2.${host}/24 dev eth0
          ip link set eth0 up
          ethtool -K eth0 tso off gso off gro off
          nft 'table ip bench {
            chain in { type filter hook input priority 0; ct state new accept; }
            chain out { type filter hook output priority 0; ct state new accept; }
          }'`,
        );
      await network.serve();
      return network;
    } catch (error) {
      await namespaces.remove();
      throw error;
    }
  }

  /** Inode numbers of the namespaces. */
  get inodes(): number[] {
    return this.names.map((name) => statSync(this.path(name)).ino);
  }

  path(name: string): string {
    return `/run/netns/${name}`;
  }

  /** One connection with so many bytes: segments and acknowledgments that nobody wants. */
  stream(bytes: number): Promise<void> {
    return this.run('stream', OPEN_PORT, bytes);
  }

  /** Datagrams to a closed port: sent, received, dropped. */
  datagrams(count: number): Promise<void> {
    return this.run('datagrams', CLOSED_PORT, count);
  }

  /** Connects that are refused: a SYN, which is dropped, and a RST each. */
  refused(count: number): Promise<void> {
    return this.run('connects', CLOSED_PORT, count);
  }

  /** Connects that succeed, each reset at once. */
  connects(count: number): Promise<void> {
    return this.run('connects', OPEN_PORT, count);
  }

  /** Removes everything. */
  remove(): Promise<void> {
    return this.namespaces.remove();
  }

  private async serve(): Promise<void> {
    const sink = this.namespaces.spawn(
      'server',
      [this.program, 'sink', SERVER, String(OPEN_PORT)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    for await (const line of createInterface({ input: sink.stdout! })) if (line === 'ready') return;
    throw new Error('the server did not start');
  }

  private run(what: string, port: number, amount: number): Promise<void> {
    const command = [this.program, what, SERVER, String(port), String(amount)];
    const child = this.namespaces.spawn('client', command, { stdio: 'inherit' });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) =>
        code === 0 ? resolve() : reject(new Error(`traffic ${what} ended with ${code}`)),
      );
    });
  }
}
