import { spawn } from 'node:child_process';

/**
 * Runs a program to its end and returns its standard output; standard error goes where ours goes.
 * @throws Error when its status is not 0
 */
export function run(
  command: string,
  args: readonly string[],
  { cwd, env, input }: { cwd?: string; env?: Record<string, string>; input?: Buffer } = {},
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const out: Buffer[] = [];
    child.stdout.on('data', (data: Buffer) => out.push(data));
    child.on('error', reject);
    child.on('close', (status) =>
      status === 0
        ? resolve(Buffer.concat(out))
        : reject(new Error(`${command} ${args.join(' ')}: status ${status}`)),
    );
    // a program that has read enough closes its input
    child.stdin.on('error', () => undefined).end(input);
  });
}
