import { Command, Option } from 'commander';
import { SkbwhyError } from '../event/errors.js';
import { count } from '../explain/wording.js';
import { exportSession } from '../export/export.js';
import { JsonLines } from '../export/json-lines.js';
import { Output } from '../export/output.js';
import { decodeAsOptions, PacketCapture } from '../export/packet-capture.js';
import { survey } from '../export/survey.js';
import { loadFaults } from '../faults/registry.js';
import { openFile } from '../session/file-reader.js';
import { Progress } from './progress.js';

interface ExportOptions {
  pcapng?: string;
  jsonl?: string;
}

export function exportCommand(version: string): Command {
  return new Command('export')
    .description('a recorded session for Wireshark, jq, DuckDB')
    .argument('<file>', 'session file (.skbw)')
    .addOption(
      new Option(
        '--pcapng <out>',
        'every packet as it was at every point, with comments; - is standard output',
      ).conflicts('jsonl'),
    )
    .addOption(new Option('--jsonl <out>', 'one JSON object per record; - is standard output'))
    .action((file: string, options: ExportOptions) => run(file, options, version));
}

async function run(file: string, options: ExportOptions, version: string): Promise<void> {
  const { pcapng, jsonl } = options;
  const path = pcapng ?? jsonl;
  if (path === undefined)
    throw new SkbwhyError('bad-option', 'say what to write: --pcapng OUT or --jsonl OUT');
  if (pcapng === '-' && process.stdout.isTTY)
    throw new SkbwhyError('bad-option', 'a terminal cannot show pcapng: give a file, or pipe it');
  const session = await openFile(file);
  const progress = new Progress('exporting');
  let output: Output | null = null;
  try {
    output = await Output.open(path, file);
    const faults = await loadFaults();
    const whole = await survey(
      session,
      faults.map((fault) => fault.diagnoser),
      () => progress.update(session.progress / 2),
    );
    const format = pcapng
      ? new PacketCapture(session.header, whole, version)
      : new JsonLines(session.header, whole);
    await exportSession(session, format, output, () => progress.update((1 + session.progress) / 2));
    progress.stop();
    if (session.truncated) say(`${file}: ${session.truncated.message}`);
    const decodeAs = pcapng ? decodeAsOptions(whole) : [];
    if (path !== '-')
      say(
        pcapng
          ? `${path}: ${count(whole.packets, 'packet observation')} of ${count(whole.records, 'record')}`
          : `${path}: ${count(whole.records, 'record')}`,
      );
    if (decodeAs.length > 0)
      say(`tshark and Wireshark want to be told of its ports: tshark ${decodeAs.join(' ')}`);
  } finally {
    progress.stop();
    await output?.close();
    await session.close();
  }
}

function say(line: string): void {
  process.stderr.write(`skbwhy: ${line}\n`);
}
