/**
 * The container image, built and run by podman where no image registry is reached: on a base made by
 * debootstrap, with this machine's Node. Everything stands below one folder.
 */
import {
  execFile,
  execFileSync,
  spawn,
  spawnSync,
  type ChildProcessWithoutNullStreams,
} from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  readdirSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Result } from './skbwhy.js';

const CHECKOUT = fileURLToPath(new URL('../../../', import.meta.url));
const BASE = 'localhost/skbwhy-base';
const NODE = 'localhost/skbwhy-node';
const IMAGE = 'localhost/skbwhy';
const SUITE = 'bookworm';
const ISOLATION = ['--isolation=chroot', '--layers=false'];
const CGROUPS = '/sys/fs/cgroup';

const execute = promisify(execFile);

/** As the documentation has it for a node. */
export const ON_NODE = ['--privileged', '--net=host', '--pid=host'];

/** Where a container ends. */
export interface Container {
  process: ChildProcessWithoutNullStreams;
  stdout(): string;
  stderr(): string;
  ended: Promise<Result>;
}

export class Image {
  private readonly folder = mkdtempSync(join(tmpdir(), 'skbwhy-image-'));
  private readonly cgroups = new Set(podmanCgroups());
  private readonly global: string[];
  private count = 0;

  private constructor() {
    const storage = (driver: string) => [
      ...['--root', join(this.folder, 'storage'), '--runroot', join(this.folder, 'run')],
      ...['--tmpdir', join(this.folder, 'tmp'), '--storage-driver', driver],
      // crun takes no machine that has both cgroup v1 and v2; runc takes all
      ...['--runtime', 'runc', '--cgroup-manager', 'cgroupfs', '--events-backend', 'none'],
    ];
    this.global = storage('overlay');
    // no overlay upon an overlay: in a container, say
    if (spawnSync('podman', [...this.global, 'info']).status !== 0) {
      rmSync(join(this.folder, 'storage'), { recursive: true, force: true });
      this.global = storage('vfs');
    }
  }

  /** Builds the Dockerfile of this checkout. */
  static async build(): Promise<Image> {
    const image = new Image();
    try {
      await image.makeBase();
      await image.makeNode();
      await image.podman('build', ...ISOLATION, ...image.npmSettings(), '-t', IMAGE, CHECKOUT, {
        NODE,
        BASE,
      });
      return image;
    } catch (error) {
      image.remove();
      throw error;
    }
  }

  /** Starts a container of the image. */
  start(options: readonly string[], ...command: string[]): Container {
    const name = this.newName();
    const process = spawn('podman', [
      ...this.global,
      ...['run', '--rm', '--name', name],
      // its own defaults are more than a root without CAP_SYS_RESOURCE may have
      ...['--ulimit=nofile=1024:1024', '--ulimit=nproc=1024:1024'],
      ...options,
      IMAGE,
      ...command,
    ]);
    process.stdin.end();
    const out: string[] = [];
    const err: string[] = [];
    process.stdout.setEncoding('utf8').on('data', (text: string) => out.push(text));
    process.stderr.setEncoding('utf8').on('data', (text: string) => err.push(text));
    const stdout = () => out.join('');
    const stderr = () => err.join('');
    const ended = new Promise<Result>((resolve, reject) => {
      process.on('error', reject);
      process.on('close', (code) =>
        resolve({ status: code ?? 128, stdout: stdout(), stderr: stderr() }),
      );
    });
    return { process, stdout, stderr, ended };
  }

  /** Runs a container of the image until it ends. */
  run(options: readonly string[], ...command: string[]): Promise<Result> {
    return this.start(options, ...command).ended;
  }

  /** The node's id of the first process of a container. */
  pidOf({ process }: Container): number {
    const name = process.spawnargs[process.spawnargs.indexOf('--name') + 1]!;
    const format = '--format={{.State.Pid}}';
    return Number(execFileSync('podman', [...this.global, 'inspect', format, name]));
  }

  /** Bytes that the image has more than its base. */
  size(): number {
    const [whole, base] = [IMAGE, BASE].map((name) =>
      Number(
        execFileSync('podman', [...this.global, 'image', 'inspect', '--format={{.Size}}', name]),
      ),
    );
    return whole! - base!;
  }

  remove(): void {
    spawnSync('podman', [...this.global, 'rm', '--all', '--force', '--time=0']);
    for (const cgroup of podmanCgroups()) if (!this.cgroups.has(cgroup)) rmdir(cgroup);
    spawnSync('umount', ['--recursive', join(this.folder, 'storage/overlay')]);
    rmSync(this.folder, { recursive: true, force: true });
  }

  private async makeBase(): Promise<void> {
    const root = join(this.folder, 'debian');
    const mirror = aptMirror();
    const words = ['--variant=minbase', SUITE, root, ...(mirror ? [mirror] : [])];
    await execute('debootstrap', words, { maxBuffer: 16 << 20 });
    const tar = join(this.folder, 'debian.tar');
    await execute('tar', ['-C', root, '-cf', tar, '.']);
    rmSync(root, { recursive: true });
    await this.podman('import', tar, BASE);
    rmSync(tar);
  }

  /** The base with this machine's Node and npm, below /usr/local as the official image has them. */
  private async makeNode(): Promise<void> {
    const npm = join(execFileSync('npm', ['root', '--global'], { encoding: 'utf8' }).trim(), 'npm');
    const headers = [dirname(dirname(realpathSync(process.execPath))), '/usr/local', '/usr']
      .map((prefix) => join(prefix, 'include/node'))
      .find((folder) => existsSync(join(folder, 'node.h')));
    if (!headers) throw new Error("Node's headers are not on this machine");
    const file = join(this.folder, 'Node');
    writeFileSync(
      file,
      `FROM ${BASE}
RUN cd /usr/local && mkdir -p bin include lib/node_modules \\
 && cp /machine/node bin/ && cp -r /machine/npm lib/node_modules/ && cp -r /machine/headers include/node \\
 && ln -s ../lib/node_modules/npm/bin/npm-cli.js bin/npm && ln -s ../lib/node_modules/npm/bin/npx-cli.js bin/npx
`,
    );
    const context = join(this.folder, 'nothing');
    mkdirSync(context);
    await this.podman(
      'build',
      ...ISOLATION,
      `--volume=${realpathSync(process.execPath)}:/machine/node:ro`,
      `--volume=${realpathSync(npm)}:/machine/npm:ro`,
      `--volume=${realpathSync(headers)}:/machine/headers:ro`,
      `--file=${file}`,
      `--tag=${NODE}`,
      context,
    );
  }

  /** This machine's way to npm's registry, while it is built only. */
  private npmSettings(): string[] {
    const file = join(this.folder, 'npmrc');
    const own = join(homedir(), '.npmrc');
    if (existsSync(own)) copyFileSync(own, file);
    const volumes = [`--volume=${file}:/root/.npmrc:ro`];
    for (const key of ['registry', 'cafile']) {
      const words = ['config', 'get', key];
      const value = execFileSync('npm', words, { encoding: 'utf8', stdio: 'pipe' }).trim();
      if (!value || value === 'null' || value === 'undefined') continue;
      appendFileSync(file, `\n${key}=${value}\n`);
      if (key === 'cafile') volumes.push(`--volume=${realpathSync(value)}:${value}:ro`);
    }
    return volumes;
  }

  private async podman(...words: (string | Record<string, string>)[]): Promise<void> {
    const args = words.flatMap((word) =>
      typeof word === 'string'
        ? [word]
        : Object.entries(word).flatMap(([key, value]) => ['--build-arg', `${key}=${value}`]),
    );
    await execute('podman', [...this.global, ...args], { maxBuffer: 64 << 20 });
  }

  private newName(): string {
    return `skbwhy-${process.pid}-${++this.count}`;
  }
}

/** Where this machine's apt gets Debian from; null: debootstrap knows. */
function aptMirror(): string | null {
  const format = '$(CODENAME) $(COMPONENT) $(REPO_URI)';
  const targets = spawnSync('apt-get', ['indextargets', '--format', format], { encoding: 'utf8' });
  const line = targets.stdout?.split('\n').find((each) => each.startsWith(`${SUITE} main `));
  return line?.split(' ')[2] ?? null;
}

function podmanCgroups(): string[] {
  if (!existsSync(CGROUPS)) return [];
  const folders = [CGROUPS, ...readdirSync(CGROUPS).map((name) => join(CGROUPS, name))];
  return folders.map((folder) => join(folder, 'libpod_parent')).filter((path) => existsSync(path));
}

/** Removes a cgroup and those in it. */
function rmdir(path: string): void {
  try {
    for (const each of readdirSync(path, { withFileTypes: true }))
      if (each.isDirectory()) rmdir(join(path, each.name));
    rmdirSync(path);
  } catch {
    // somebody else's containers are in it
  }
}
