// Opens pages in a headless Chromium and says what is wrong with them, as JSON lines on standard output.
//
//   NODE_PATH=... node look.mjs CHROMIUM FOLDER-FOR-PICTURES URL...
//
// Of each page, at three widths, light and dark: what the console says, what was asked of the network, whether
// it scrolls sideways, and serious faults that axe-core finds. Printed, too: whether anything is cut off.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.env.EVOMERGE_TEST_PAGE + "/package.json");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [browserPath, pictures, ...pages] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: browserPath,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"],
});
for (const [at, url] of pages.entries()) {
  for (const width of [400, 800, 1600]) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport: { width, height: 1200 }, colorScheme, bypassCSP: false });
      const page = await context.newPage();
      const faults = [];
      page.on("console", (message) => faults.push(`console: ${message.text()}`));
      page.on("pageerror", (error) => faults.push(`error: ${error}`));
      page.on("dialog", (dialog) => { faults.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
      page.on("request", (request) => {
        if (request.url() !== url && !request.url().startsWith("data:")) faults.push(`asked for ${request.url()}`);
      });
      await page.goto(url);
      await page.emulateMedia({ media: "print", colorScheme });
      // what is folded is printed
      const unprinted = await page.evaluate(() =>
        [...document.querySelectorAll("details")].filter(
          (each) => getComputedStyle(each, "::details-content").contentVisibility !== "visible").length);
      await page.emulateMedia({ media: "screen", colorScheme });
      const found = await page.evaluate(() => {
        for (const each of document.querySelectorAll("details")) each.open = true;
        const drawn = document.querySelector(".picture svg [fill], .picture svg [stroke]");
        return {
          sideways: document.documentElement.scrollWidth - window.innerWidth,
          colour: drawn ? getComputedStyle(document.querySelector(".picture svg text")).fill : "",
          back: getComputedStyle(document.body).backgroundColor,
          focus: [...document.querySelectorAll("a, summary, [tabindex]")].length,
        };
      });
      await page.screenshot({ path: `${pictures}/${at}-${width}-${colorScheme}.png` });
      // the page lets no script in: axe is run in a second view without its policy
      const second = await browser.newContext({ viewport: { width, height: 1200 }, colorScheme, bypassCSP: true });
      const view = await second.newPage();
      await view.goto(url);
      await view.evaluate(() => { for (const each of document.querySelectorAll("details")) each.open = true; });
      await view.evaluate(axe);
      const result = await view.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      for (const violation of result.violations) {
        if (["serious", "critical"].includes(violation.impact)) {
          faults.push(`${violation.id}: ${violation.help}: ${violation.nodes[0].html.slice(0, 200)}`);
        }
      }
      const minor = result.violations.map((violation) => `${violation.impact} ${violation.id}`);
      await second.close();
      await page.emulateMedia({ media: "print", colorScheme });
      const printed = await page.evaluate(() => getComputedStyle(document.body).color);
      await context.close();
      console.log(JSON.stringify({ url, width, colorScheme, faults, minor, printed, unprinted, ...found }));
    }
  }
}
await browser.close();
