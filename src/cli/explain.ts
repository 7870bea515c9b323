import { Command, Option } from 'commander';
import { openFile, type FileSession } from '../session/file-reader.js';
import {
  exitCode,
  explainerOptions,
  maxExchangesOption,
  type ExplainOptions,
  failOnFindingOption,
  formatOf,
  jsonOption,
  slowOption,
} from './common.js';
import { explain } from './main-path.js';
import { print, type Format } from './output.js';

export function explainCommand(): Command {
  return new Command('explain')
    .description('the findings of recorded sessions; several files of one incident together')
    .argument('<file...>', 'session files (.skbw)')
    .addOption(
      new Option('--format <format>', 'how to print them')
        .choices(['text', 'json', 'markdown'])
        .default('text'),
    )
    .addOption(slowOption())
    .addOption(maxExchangesOption())
    .addOption(jsonOption())
    .addOption(failOnFindingOption())
    .action(
      async (
        files: string[],
        options: { format: Format; json?: boolean; failOnFinding?: boolean } & ExplainOptions,
      ) => {
        const sessions: FileSession[] = [];
        try {
          for (const file of files) sessions.push(await openFile(file));
          const explained = await explain(sessions, { options: explainerOptions(options) });
          sessions.forEach((session, i) => {
            const { truncated } = session;
            if (truncated)
              explained.report.sessions[i]!.truncated = `${files[i]}: ${truncated.message}`;
          });
          print(explained, formatOf(options));
          process.exitCode = exitCode(explained.report, options);
        } finally {
          await Promise.all(sessions.map((session) => session.close()));
        }
      },
    );
}
