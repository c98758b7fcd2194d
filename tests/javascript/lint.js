// Checks the scripts of each page with eslint, joined as in the page; ends with 1 where it finds something.
import { readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { ESLint } from "eslint";

const here = import.meta.dirname;
const root = resolve(here, "../..");

function scriptsOf(page) {
  const { files } = JSON.parse(readFileSync(resolve(here, `tsconfig.${page}.json`), "utf-8"));
  return files.filter((name) => name.endsWith(".js")).map((name) => resolve(here, name));
}

// What eslint says of a page, as [file, "line:column text", is it about a name that nothing uses?].
async function complaintsOf(eslint, files) {
  const lines = files.flatMap((file) => readFileSync(file, "utf-8").replace(/\n$/, "").split("\n").map((text, k) => [text, file, k + 1]));
  const text = lines.map(([line]) => line).join("\n") + "\n";
  const [{ messages }] = await eslint.lintText(text, { filePath: resolve(dirname(files[0]), "page.js") });
  return messages.map(({ line, column, message, ruleId }) => {
    const [, file, number] = lines[Math.min(line, lines.length) - 1];
    return [file, `${number}:${column} ${message} (${ruleId ?? "syntax"})`, ruleId === "no-unused-vars"];
  });
}

const eslint = new ESLint({ cwd: root, overrideConfigFile: resolve(here, "eslint.config.js") });
const pages = ["report", "diff"].map(scriptsOf);
const found = new Map();
for (const files of pages) {
  for (const [file, text, isUnused] of await complaintsOf(eslint, files)) {
    const line = `${relative(root, file)}:${text}`;
    const before = found.get(line)?.pages ?? 0;
    found.set(line, { file, isUnused, pages: before + 1 });
  }
}
// A name that one page does not use may be there for the other.
const isFault = ({ file, isUnused, pages: count }) => !isUnused || count === pages.filter((files) => files.includes(file)).length;
const faults = [...found].filter(([, complaint]) => isFault(complaint)).map(([line]) => line);
for (const line of faults) console.error(line);
process.exitCode = faults.length ? 1 : 0;
