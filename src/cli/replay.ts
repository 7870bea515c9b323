import { Command, InvalidArgumentError, Option } from 'commander';
import { openFile } from '../session/file-reader.js';
import { Replay, type Speed } from '../session/replay.js';
import { Channel } from '../stream/channel.js';
import type { Playback } from '../stream/protocol.js';
import { StreamServer } from '../stream/server.js';
import {
  explainerOptions,
  maxExchangesOption,
  slowOption,
  untilInterrupted,
  type ExplainOptions,
} from './common.js';
import { explain } from './main-path.js';
import {
  allowOriginOption,
  builtPage,
  listenOption,
  tokenFileOption,
  version,
  whoMayConnect,
  type ServingOptions,
} from './serving.js';

interface ReplayOptions extends ServingOptions, ExplainOptions {
  speed: Speed;
}

export function replayCommand(): Command {
  return new Command('replay')
    .description('serves a recorded session as if it were live, from when the first client comes')
    .argument('<file>', 'session file (.skbw)')
    .addOption(
      new Option('--speed <speed>', 'times as fast as it was, or max').argParser(speed).default(1),
    )
    .addOption(slowOption())
    .addOption(maxExchangesOption())
    .addOption(listenOption())
    .addOption(tokenFileOption())
    .addOption(allowOriginOption())
    .action((file: string, options: ReplayOptions) => replay(file, options));
}

async function replay(path: string, options: ReplayOptions): Promise<void> {
  const { listen, access } = await whoMayConnect(options);
  const file = await openFile(path);
  const startNs = file.header.clock.startNs;
  const durationMs = Math.max(0, (await file.lastTime()) - startNs) / 1e6;
  const playing = new Replay(file, durationMs, options.speed);
  const channel = new Channel(file.header, { version: version() });
  let server: StreamServer;
  try {
    server = await StreamServer.listen({
      listen,
      access,
      channel,
      page: builtPage(),
      control: controlOf(playing, channel),
    });
  } catch (error) {
    await playing.close();
    throw error;
  }
  await untilInterrupted(async (signal) => {
    signal.addEventListener('abort', () => void playing.close());
    process.stderr.write(
      `Replaying ${path} at ${server.url}; it begins with the first client, Ctrl-C ends it.\n`,
    );
    if (file.truncated) process.stderr.write(`skbwhy: ${path}: ${file.truncated.message}\n`);
    await channel.firstSubscriber(signal);
    while (!signal.aborted) {
      channel.clear();
      await explain([playing], { publisher: channel, options: explainerOptions(options) });
      if (playing.ended) channel.end('the recording ends here');
      await playing.again();
    }
    await server.close();
  });
}

/** Ties what clients may do, and what follows from it, to the replay. */
function controlOf(playing: Replay, channel: Channel) {
  let away = false;
  const tell = (): void => {
    channel.lossless = playing.speed === 'max';
    channel.playback = () => stateOf(playing);
    if (away && !playing.catchingUp) {
      away = false;
      channel.release();
    } else channel.tellPlayback();
  };
  playing.onChange = tell;
  tell();
  return {
    seek: (ms: number) => {
      away = true;
      channel.hold();
      playing.seek(ms);
    },
    speed: (speed: Speed) => playing.setSpeed(speed),
    pause: (paused: boolean) => playing.setPaused(paused),
  };
}

function stateOf({ positionMs, durationMs, speed, paused, ended }: Replay): Playback {
  return { ms: positionMs, durationMs, speed, paused, ended };
}

function speed(value: string): Speed {
  if (value === 'max') return 'max';
  const n = Number(value);
  if (!(n > 0 && n <= 1e6)) throw new InvalidArgumentError('a number above 0, or max, is wanted.');
  return n;
}
