#!/usr/bin/env node
/**
 * Makes a checkout ready to run: system packages, npm packages, build. Does only what is missing,
 * and says in one line what it does and why. `--test`: also what the tests and `npm run bpf` need;
 * `--kernels`: what the tests on other kernels need.
 *
 * Plain JavaScript without dependencies: it runs before anything is installed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const FFI = 'node_modules/ffi-napi/build/Release/ffi_bindings.node';
const BUILT = 'dist/.sources';
const PAGE = 'scripts/page.js';

/** Debian's and Ubuntu's package, what for, and what shows that it is there already. */
const RUN_TIME = [
  { name: 'libbpf1', why: 'loads the eBPF programs', library: 'libbpf.so.1' },
  { name: 'libpcap0.8', why: 'compiles filters', library: 'libpcap.so.0.8' },
  { name: 'iproute2', why: 'namespaces and devices', command: 'ip' },
  { name: 'iptables', why: 'NAT rules', command: 'iptables' },
  { name: 'nftables', why: 'NAT rules', command: 'nft' },
  { name: 'ethtool', why: 'offloads', command: 'ethtool' },
  { name: 'conntrack', why: 'connection tracking entries', command: 'conntrack' },
  { name: 'util-linux', why: 'nsenter', command: 'nsenter' },
];
const FFI_BUILD = [
  { name: 'python3', why: 'builds ffi-napi', command: 'python3' },
  { name: 'make', why: 'builds ffi-napi', command: 'make' },
  { name: 'g++', why: 'builds ffi-napi', command: 'g++' },
];
const TEST = [
  { name: 'clang', why: 'compiles the eBPF programs', command: 'clang' },
  { name: 'llvm', why: 'strips the eBPF programs', command: 'llvm-strip' },
  { name: 'libbpf-dev', why: 'compiles the eBPF programs', file: '/usr/include/bpf/bpf_helpers.h' },
  { name: 'podman', why: 'builds and runs the container image', command: 'podman' },
  { name: 'runc', why: 'runs the container image', command: 'runc' },
  { name: 'debootstrap', why: 'makes a base for the container image', command: 'debootstrap' },
  { name: 'chromium', why: 'shows the page', command: 'chromium' },
  { name: 'gcc', why: 'compiles a client of glibc’s resolver', command: 'gcc' },
  { name: 'libc6-dev', why: 'compiles a client of glibc’s resolver', file: '/usr/include/netdb.h' },
  { name: 'musl-tools', why: 'compiles a client of musl’s resolver', command: 'musl-gcc' },
  { name: 'dnsmasq-base', why: 'a DNS server that is not ours', command: 'dnsmasq' },
  { name: 'tshark', why: 'reads exported packets', command: 'tshark' },
  { name: 'jq', why: 'reads exported records', command: 'jq' },
  {
    name: 'python3-websockets',
    why: 'a client of the stream in another language',
    file: '/usr/lib/python3/dist-packages/websockets/__init__.py',
  },
  {
    name: 'python3-msgpack',
    why: 'a client of the stream in another language',
    file: '/usr/lib/python3/dist-packages/msgpack/__init__.py',
  },
];

/** Guests with other kernels, and the build of the one with the old faults. */
const KERNELS = [
  { name: 'qemu-system-x86', why: 'boots other kernels', command: 'qemu-system-x86_64' },
  { name: 'busybox-static', why: 'starts a guest', file: '/bin/busybox' },
  { name: 'cpio', why: 'starts a guest', command: 'cpio' },
  { name: 'kmod', why: 'the modules of a guest', command: 'depmod' },
  { name: 'xz-utils', why: 'unpacks kernels', command: 'xz' },
  { name: 'zstd', why: 'unpacks kernels', command: 'zstd' },
  { name: 'lz4', why: 'packs a kernel', command: 'lz4' },
  {
    name: 'debian-archive-keyring',
    why: 'verifies kernels',
    file: '/usr/share/keyrings/debian-archive-keyring.gpg',
  },
  { name: 'make', why: 'builds a kernel', command: 'make' },
  { name: 'gcc', why: 'builds a kernel', command: 'gcc' },
  { name: 'flex', why: 'builds a kernel', command: 'flex' },
  { name: 'bison', why: 'builds a kernel', command: 'bison' },
  { name: 'bc', why: 'builds a kernel', command: 'bc' },
  { name: 'libelf-dev', why: 'builds a kernel', file: '/usr/include/libelf.h' },
  { name: 'dwarves', why: "a kernel's BTF", command: 'pahole' },
];

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
checkNode();
// what the dynamic linker finds, one library a line
const libraries = run('/sbin/ldconfig', ['-p']).stdout ?? '';
const packages = [
  ...RUN_TIME,
  ...(fs.existsSync(FFI) && npmPackagesFit() ? [] : FFI_BUILD),
  ...(process.argv.includes('--test') ? TEST : []),
  ...(process.argv.includes('--kernels') ? KERNELS : []),
];
const news = installSystemPackages(packages.filter((each) => !isThere(each)));
if (!npmPackagesFit() || (news && !fs.existsSync(FFI))) installNpmPackages();
if (!fs.existsSync(FFI))
  say(
    'ffi-napi could not be built: recorded sessions can be explained, but nothing can be traced ' +
      '(`npm ci --foreground-scripts` shows why)',
  );
linkCommand();
build();

function say(line) {
  console.error(`setup: ${line}`);
}

function fail(line, output = '') {
  if (output) console.error(output.trimEnd());
  say(line);
  process.exit(1);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 12))
    fail(`Node ${process.versions.node} is too old: install Node 20.12 or later`);
}

// --- system packages

function isThere({ library, command, file }) {
  if (file) return fs.existsSync(file);
  if (command) return searchPath().some((folder) => fs.existsSync(path.join(folder, command)));
  return libraries.includes(`\t${library} `);
}

function searchPath() {
  return [...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin'];
}

/** True when something was installed. */
function installSystemPackages(missing) {
  if (missing.length === 0) return false;
  const names = missing.map((each) => each.name);
  const list = missing.map((each) => `${each.name} (${each.why})`).join(', ');
  const install = ['apt-get', 'install', '-y', '--no-install-recommends', ...names];
  const available = searchPath().some((folder) => fs.existsSync(path.join(folder, 'apt-get')));
  if (process.getuid() !== 0 || !available) {
    const how = available ? `as root: ${install.join(' ')}` : "with this system's package manager";
    say(`missing: ${list}; going on without: install ${how}`);
    return false;
  }
  say(`installing ${list}`);
  const apt = (...args) =>
    run('apt-get', ['-o', 'DPkg::Lock::Timeout=120', ...args], {
      DEBIAN_FRONTEND: 'noninteractive',
    });
  let result = apt(...install.slice(1));
  if (result.status !== 0) {
    // no package lists yet, or lists that are too old
    apt('update');
    result = apt(...install.slice(1));
  }
  if (result.status !== 0) fail(`cannot install: try ${install.join(' ')}`, result.stderr);
  return true;
}

// --- npm packages

/** What npm installed is what the lock file wants; an optional package may be missing. */
function npmPackagesFit() {
  let wanted, installed;
  try {
    wanted = JSON.parse(fs.readFileSync('package-lock.json', 'utf8')).packages;
    installed = JSON.parse(fs.readFileSync('node_modules/.package-lock.json', 'utf8')).packages;
  } catch {
    return false;
  }
  const fits = ([name, { version, optional }]) =>
    name === '' || installed[name]?.version === version || (optional && !installed[name]);
  return Object.entries(wanted).every(fits) && Object.keys(installed).every((key) => wanted[key]);
}

function installNpmPackages() {
  say('installing the npm packages that package-lock.json names');
  // npm 10 and earlier know the first name, npm 11 the second.
  const prefix = nodeHeaders();
  const headers = prefix
    ? { npm_config_nodedir: prefix, npm_package_config_node_gyp_nodedir: prefix }
    : {};
  const npm = process.env.npm_execpath;
  const [command, first] = npm?.endsWith('.js') ? [process.execPath, [npm]] : ['npm', []];
  const args = [...first, 'ci', '--loglevel=error', '--include=dev', '--include=optional'];
  const result = run(command, args, headers);
  if (result.status !== 0) {
    // what went wrong stands first; help with npm's options follows
    const said = result.error?.message ?? result.stdout + result.stderr;
    fail('npm ci failed', said.split('\n').slice(0, 12).join('\n'));
  }
}

/**
 * A prefix with Node's headers, so that node-gyp need not download them: this Node's own, else of
 * another Node here, since the binary interface of native modules (Node-API) is the same for all.
 */
function nodeHeaders() {
  const own = path.dirname(fs.realpathSync(process.execPath));
  return [own, ...searchPath()]
    .map((folder) => path.dirname(path.resolve(folder)))
    .find((prefix) => fs.existsSync(path.join(prefix, 'include/node/node.h')));
}

/** `npx skbwhy` in the checkout runs the checkout's own command. */
function linkCommand() {
  const link = 'node_modules/.bin/skbwhy';
  if (fs.existsSync(link)) return;
  fs.rmSync(link, { force: true });
  fs.symlinkSync('../../bin/skbwhy.js', link);
}

// --- build

/** Compiles TypeScript and builds the page when a source has changed since the last time. */
function build() {
  const files = ['src', 'test', 'scripts'].flatMap(filesUnder);
  const sources = files.filter((file) => file.endsWith('.ts'));
  const page = files.filter((file) => file.startsWith('src/web/') && !file.endsWith('.ts'));
  const hash = createHash('sha256');
  for (const file of ['tsconfig.json', 'package-lock.json', PAGE, ...sources, ...page])
    hash.update(`${file}\0`).update(fs.readFileSync(file)).update('\0');
  const digest = hash.digest('hex');
  if (fs.existsSync(BUILT) && fs.readFileSync(BUILT, 'utf8') === digest) return;
  say('compiling');
  fs.rmSync(BUILT, { force: true });
  removeOrphans(new Set(sources));
  for (const project of ['.', 'src/web']) {
    const tsc = run(process.execPath, ['node_modules/.bin/tsc', '-p', project]);
    if (tsc.status !== 0) fail('the sources do not compile', tsc.stdout + tsc.stderr);
  }
  const built = run(process.execPath, [PAGE]);
  if (built.status !== 0) fail('the page cannot be built', built.stdout + built.stderr);
  fs.writeFileSync(BUILT, digest);
}

/** What was compiled from sources that are no longer there. */
function removeOrphans(sources) {
  for (const file of filesUnder('dist')) {
    const source = path.relative('dist', file).replace(/\.js(\.map)?$/, '.ts');
    if (source.endsWith('.ts') && !sources.has(source)) fs.rmSync(file);
  }
}

function filesUnder(folder) {
  if (!fs.existsSync(folder)) return [];
  return fs
    .readdirSync(folder, { withFileTypes: true })
    .flatMap((each) =>
      each.isDirectory()
        ? filesUnder(path.join(folder, each.name))
        : [path.join(folder, each.name)],
    )
    .sort();
}

function run(command, args, env = {}) {
  return spawnSync(command, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}
