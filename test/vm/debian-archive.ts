import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from './run.js';

/** Where each series of kernels is found: the archive's part, and the suite in it. */
const SUITES = [
  ['Debian', 'bookworm'],
  ['Debian', 'trixie'],
  ['Debian', 'sid'],
  ['Debian-Security', 'bullseye-security'],
  ['Debian-Security', 'bookworm-security'],
  ['Debian-Security', 'trixie-security'],
] as const;

/** The folder of each part on a mirror. */
const FOLDERS = { Debian: 'debian', 'Debian-Security': 'debian-security' } as const;

/** Package lists younger than this are not fetched again, ms. */
const FRESH_MS = 24 * 3600e3;

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** A package as `apt-cache show` describes it. */
interface PackageRecord {
  depends: string;
}

/**
 * Debian's archive, read by apt with a configuration and package lists of its own: other suites than
 * the machine's, and nothing of the machine's changes. The mirror is the machine's own, or the one
 * that SKBWHY_DEBIAN_MIRROR names (the address above debian/ and debian-security/).
 */
export class DebianArchive {
  private constructor(private readonly folder: string) {}

  /** Reads the package lists. @param folder for apt's state; made when it is not there */
  static async open(folder: string): Promise<DebianArchive> {
    const archive = new DebianArchive(folder);
    for (const name of ['lists/partial', 'archives/partial', 'empty'])
      await mkdir(path.join(folder, name), { recursive: true });
    const mirrors = new Map<string, string>();
    for (const part of Object.keys(FOLDERS) as (keyof typeof FOLDERS)[])
      mirrors.set(part, await mirrorOf(part));
    await Promise.all([
      writeFile(
        path.join(folder, 'sources.list'),
        SUITES.map(
          ([part, suite]) => `deb [signed-by=${KEYRING}] ${mirrors.get(part)} ${suite} main\n`,
        ),
      ),
      writeFile(path.join(folder, 'status'), ''),
      writeFile(path.join(folder, 'apt.conf'), configuration(folder)),
    ]);
    if (!(await archive.isFresh())) await archive.update();
    return archive;
  }

  private async isFresh(): Promise<boolean> {
    const updated = await stat(this.stamp).catch(() => null);
    return updated !== null && Date.now() - updated.mtimeMs < FRESH_MS;
  }

  private async update(): Promise<void> {
    await this.apt('apt-get', ['update', '-qq']);
    await writeFile(this.stamp, '');
  }

  /** Written when the package lists were fetched. */
  private get stamp(): string {
    return path.join(this.folder, 'updated');
  }

  /** The newest version of a package that begins so. @throws Error when there is none */
  async newest(name: string, prefix: string): Promise<string> {
    const versions = (await this.apt('apt-cache', ['madison', name]))
      .split('\n')
      .map((line) => line.split('|')[1]?.trim() ?? '');
    const version = versions.find((each) => each.startsWith(prefix));
    if (!version) throw new Error(`the archive has no ${name} ${prefix}`);
    return version;
  }

  /** A package and those that it depends on, as far as their names fit; the first is itself. */
  async withDependencies(name: string, version: string, fit: RegExp): Promise<Map<string, string>> {
    const found = new Map([[name, version]]);
    for (const [each, itsVersion] of found) {
      const { depends } = await this.show(each, itsVersion);
      for (const [, dependency = '', exact] of depends.matchAll(/([\w.+-]+)(?: \(= ([^)]+)\))?/g))
        if (exact && fit.test(dependency)) found.set(dependency, exact);
    }
    return found;
  }

  /** Downloads a package and unpacks it into a folder. */
  async unpack(name: string, version: string, into: string): Promise<void> {
    const downloads = path.join(this.folder, 'archives', 'new');
    await rm(downloads, { recursive: true, force: true });
    await mkdir(downloads, { recursive: true });
    await this.apt('apt-get', ['download', '-qq', `${name}=${version}`], downloads);
    await run('sh', ['-c', 'dpkg-deb -x "$1"/*.deb "$2"', 'sh', downloads, into]);
    await rm(downloads, { recursive: true });
  }

  private async show(name: string, version: string): Promise<PackageRecord> {
    const text = await this.apt('apt-cache', ['show', `${name}=${version}`]);
    return { depends: /^Depends: (.*)$/m.exec(text)?.[1] ?? '' };
  }

  private async apt(command: string, args: string[], cwd = this.folder): Promise<string> {
    const env = { APT_CONFIG: path.join(this.folder, 'apt.conf') };
    return (await run(command, args, { cwd, env })).toString();
  }
}

/** @throws Error when the machine's package sources do not say */
async function mirrorOf(part: keyof typeof FOLDERS): Promise<string> {
  const named = process.env['SKBWHY_DEBIAN_MIRROR'];
  if (named) return `${named.replace(/\/$/, '')}/${FOLDERS[part]}`;
  const uris = await run('apt-get', [
    'indextargets',
    '--format',
    '$(REPO_URI)',
    'Created-By: Packages',
    'Origin: Debian',
    `Label: ${part}`,
  ]);
  const [first] = uris.toString().split('\n');
  if (!first)
    throw new Error(
      `this machine knows no package source of ${part}: apt-get update reads its lists, or say where by SKBWHY_DEBIAN_MIRROR (the address above debian/ and debian-security/)`,
    );
  return first;
}

function configuration(folder: string): string {
  const empty = path.join(folder, 'empty');
  return Object.entries({
    'Dir::State::lists': path.join(folder, 'lists'),
    'Dir::State::status': path.join(folder, 'status'),
    'Dir::Cache': folder,
    'Dir::Cache::archives': path.join(folder, 'archives'),
    'Dir::Etc::sourcelist': path.join(folder, 'sources.list'),
    'Dir::Etc::sourceparts': empty,
    'Dir::Etc::preferencesparts': empty,
    'Acquire::Languages': 'none',
    // the folder may be one that apt's own user cannot enter
    'APT::Sandbox::User': '',
  })
    .map(([key, value]) => `${key} "${value}";\n`)
    .join('');
}
