/**
 * A process that explains one session: `node explain-once.js FILE`. Writes, as JSON, how many
 * records it read, its CPU time (ns, starting included) and its largest memory (bytes).
 */
import { explain } from '../../src/cli/main-path.js';
import { openFile } from '../../src/session/file-reader.js';

const session = await openFile(process.argv[2]!);
const { report } = await explain([session]);
await session.close();
const { user, system } = process.cpuUsage();
const { maxRSS } = process.resourceUsage();
process.stdout.write(
  JSON.stringify({
    records: report.sessions[0]!.records,
    findings: report.findings.length,
    cpu: (user + system) * 1000,
    memory: maxRSS * 1024,
  }),
);
