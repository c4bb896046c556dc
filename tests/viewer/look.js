// Opens a study in OHIF as a reader would, and tells what is to be seen. It judges nothing: that is for the test.
//   echo '<request>' | node look.js      request and answer are JSON, see viewer.py
const { chromium } = require('playwright-core');
const fs = require('fs');
const path = require('path');

const request = JSON.parse(fs.readFileSync(0, 'utf8'));
const SWITCHES = [
  '--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const seen = { elsewhere: [], refused: [], errors: [] };

async function open(browser) {
  const context = await browser.newContext({ viewport: { width: 1600, height: 950 } });
  await context.route('**/*', (route) => {
    const url = route.request().url();
    if (url.startsWith(request.url) || /^(blob|data):/.test(url)) return route.continue();
    seen.elsewhere.push(url);
    return route.abort();
  });
  const page = await context.newPage();
  page.setDefaultTimeout(request.patience);
  page.on('pageerror', (error) => seen.errors.push(String(error).slice(0, 300)));
  page.on('response', (answer) => {
    if (answer.status() >= 400) seen.refused.push(`${answer.status()} ${answer.url()}`);
  });
  await page.goto(`${request.url}/viewer?StudyInstanceUIDs=${request.study}`);
  await page.getByText('Skip all').click(); // a guided tour covers the page at first
  await page.waitForFunction(
    (n) => window.services?.displaySetService.getActiveDisplaySets().length >= n, request.series);
  return page;
}

const picture = (page, name) => page.screenshot({ path: path.join(request.folder, `${name}.png`) });
const settled = (page, ms) => page.waitForTimeout(ms);
const choose = (page, text) =>
  page.locator('[data-cy^="study-browser-thumbnail"]').filter({ hasText: text }).first().dblclick();

// What the active viewport holds: [series description], and the instance that is shown.
const active = (page) => page.evaluate(() => {
  const { activeViewportId, viewports } = services.viewportGridService.getState();
  const uids = viewports.get(activeViewportId).displaySetInstanceUIDs;
  const viewport = services.cornerstoneViewportService.getCornerstoneViewport(activeViewportId);
  const imageId = viewport?.getCurrentImageId?.();
  return {
    series: uids.map((uid) => services.displaySetService.getDisplaySetByUID(uid).SeriesDescription),
    slices: viewport?.getImageIds?.().length,
    instance: imageId && cornerstone.metaData.get('instance', imageId)?.SOPInstanceUID,
  };
});

// Pixels of the viewport that differ between two screenshots.
async function difference(page, before, after) {
  return page.evaluate(async (pair) => {
    const [one, other] = await Promise.all(pair.map(async (base64) => {
      const image = new Image();
      image.src = `data:image/png;base64,${base64}`;
      await image.decode();
      const canvas = document.createElement('canvas');
      canvas.width = image.width;
      canvas.height = image.height;
      const drawing = canvas.getContext('2d');
      drawing.drawImage(image, 0, 0);
      return drawing.getImageData(0, 0, image.width, image.height).data;
    }));
    let count = 0;
    for (let i = 0; i < one.length; i += 4) {
      if (Math.max(...[0, 1, 2].map((c) => Math.abs(one[i + c] - other[i + c]))) > 20) count += 1;
    }
    return count;
  }, [before.toString('base64'), after.toString('base64')]);
}

async function lookAtImages(page) {
  await choose(page, request.images);
  await page.waitForFunction(
    () => services.cornerstoneViewportService
      .getCornerstoneViewport(services.viewportGridService.getActiveViewportId())?.getCurrentImageId?.());
  await settled(page, 1500);
  await picture(page, 'images');
  return active(page);
}

async function lookAtSegmentation(page) {
  await choose(page, request.segmentation);
  await page.getByRole('button', { name: 'Yes', exact: true }).click(); // the viewer offers to open it
  await page.waitForFunction(() => services.segmentationService.getSegmentations().length > 0);
  await page.locator('[data-cy="panelSegmentation-btn"]').click().catch(() => {}); // the panel may be open already
  await settled(page, 1500);
  const segments = await page.evaluate(() => {
    const found = services.segmentationService.getSegmentations()[0];
    return Object.values(found.segments).map((s) => ({ number: s.segmentIndex, label: s.label }));
  });
  const voxels = await page.evaluate(() => {
    const id = services.segmentationService.getSegmentations()[0].segmentationId;
    const labelmap = cornerstoneTools.segmentation.state.getSegmentation(id).representationData.Labelmap;
    const images = labelmap.imageIds || cornerstone.cache.getVolume(labelmap.volumeId).imageIds;
    const counts = {};
    for (const image of images) {
      for (const value of cornerstone.cache.getImage(image)?.voxelManager.getScalarData() ?? []) {
        if (value) counts[value] = (counts[value] || 0) + 1;
      }
    }
    return counts;
  });
  const pane = page.locator('[data-cy="viewport-pane"]').first();
  const show = (numbers, visible) => page.evaluate(([wanted, on]) => {
    const viewport = services.viewportGridService.getActiveViewportId();
    const id = services.segmentationService.getSegmentations()[0].segmentationId;
    for (const n of wanted) services.segmentationService.setSegmentVisibility(viewport, id, n, on);
  }, [numbers, visible]);
  const numbers = segments.map((s) => s.number);
  for (const segment of segments) {
    await page.getByText(segment.label, { exact: true }).last().click(); // its row: the viewer goes to the segment
    await page.waitForFunction(
      (n) => services.segmentationService.getSegmentations()[0].segments[n].cachedStats?.namedStats?.center,
      segment.number);
    await settled(page, 1000);
    await picture(page, `segment-${segment.number}`);
    Object.assign(segment, await page.evaluate((n) => {
      const stats = services.segmentationService.getSegmentations()[0].segments[n].cachedStats.namedStats;
      return { volume: stats.volume?.value, centre: [...stats.center.value] };
    }, segment.number));
    segment.instance = (await active(page)).instance;
    await show(numbers, false);
    await settled(page, 500);
    const hidden = await pane.screenshot();
    await show([segment.number], true);
    await settled(page, 500);
    segment.pixels = await difference(page, hidden, await pane.screenshot());
    await show(numbers, true);
  }
  return { segments, voxels };
}

// Each finding of the report: the texts on the image, and the drawn outline as LPS mm. Of a report without any: the page.
async function lookAtReport(page) {
  await choose(page, request.report);
  const grid = page.locator('[data-cy="viewport-grid"]');
  if (!request.findings) {
    await page.waitForFunction(() => /^\s*1\./m.test(document.querySelector('[data-cy="viewport-grid"]').innerText));
    await picture(page, 'report');
    return [{ text: await grid.innerText() }];
  }
  await page.waitForFunction(() => document.querySelector('svg.svg-layer path, svg.svg-layer polyline'));
  await settled(page, 1500);
  const pane = page.locator('[data-cy="viewport-pane"]').first();
  const findings = [];
  for (let n = 0; n < request.findings; n += 1) {
    if (n) {
      const box = await pane.boundingBox();
      await page.mouse.click(box.x + box.width - 36, box.y + 16); // the arrow beside the badge: the next finding
      await settled(page, 1500);
    }
    await picture(page, `report-${n + 1}`);
    findings.push({
      text: await grid.innerText(),
      instance: (await active(page)).instance,
      outlines: await page.evaluate(() => {
        const viewport = services.cornerstoneViewportService
          .getCornerstoneViewport(services.viewportGridService.getActiveViewportId());
        const layer = viewport.element.querySelector('svg.svg-layer').getBoundingClientRect();
        return [...viewport.element.querySelectorAll('svg.svg-layer path, svg.svg-layer polyline')].map((shape) => {
          const box = shape.getBoundingClientRect();
          const corner = (x, y) => [...viewport.canvasToWorld([x - layer.left, y - layer.top])];
          return [corner(box.left, box.top), corner(box.right, box.bottom)];
        });
      }),
    });
  }
  return findings;
}

// The outlines of a structure set, as LPS mm: for each structure the box around them, and on how many slices they lie.
async function lookAtStructures(page) {
  await choose(page, request.structures);
  await page.getByRole('button', { name: 'Yes', exact: true }).click(); // the viewer offers to open it
  await page.waitForFunction(() => services.segmentationService.getSegmentations().length > 0);
  await settled(page, 3000);
  await picture(page, 'structures');
  return page.evaluate(() => {
    const found = services.segmentationService.getSegmentations()[0];
    const annotations = cornerstoneTools.annotation.state.getAllAnnotations()
      .filter((one) => one.data.segmentation?.segmentationId === found.segmentationId);
    return Object.values(found.segments).map((segment) => {
      const lines = annotations.filter((one) => one.data.segmentation.segmentIndex === segment.segmentIndex)
        .map((one) => one.data.contour.polyline);
      const along = (axis) => lines.flatMap((line) => line.map((point) => point[axis]));
      const extreme = (which) => [0, 1, 2].map((axis) => along(axis).reduce((a, b) => Math[which](a, b)));
      return {
        label: segment.label,
        box: lines.length ? [extreme('min'), extreme('max')] : null,
        slices: new Set(lines.map((line) => line[0][2].toFixed(2))).size,
      };
    });
  });
}

// A parametric map over its images: every STEP-th value, slice by slice, and the instances of the slices. The viewer
// multiplies values by 100 and opens every map with a window for values of 0 to 1; a reader sets another, as here.
const STEP = 97;

async function lookAtMap(page, description) {
  await choose(page, description);
  await page.waitForFunction((chosen) => {
    const wanted = services.displaySetService.getActiveDisplaySets()
      .find((one) => one.Modality === 'PMAP' && one.SeriesDescription.endsWith(chosen));
    const viewport = services.cornerstoneViewportService
      .getCornerstoneViewport(services.viewportGridService.getActiveViewportId());
    const [, map] = viewport?.getAllVolumeIds?.() ?? [];
    return map === wanted.displaySetInstanceUID && cornerstone.cache.getVolume(map)?.loadStatus?.loaded;
  }, description);
  const map = await page.evaluate((step) => {
    const viewport = services.cornerstoneViewportService
      .getCornerstoneViewport(services.viewportGridService.getActiveViewportId());
    const [images, id] = viewport.getAllVolumeIds().map((one) => cornerstone.cache.getVolume(one));
    const values = Array.from(id.voxelManager.getCompleteScalarDataArray()).map((value) => value / 100);
    return {
      instances: images.imageIds.map((one) => cornerstone.metaData.get('instance', one).SOPInstanceUID),
      values: values.filter((_, n) => n % step === 0).map((value) => (Number.isFinite(value) ? value : null)),
      most: values.reduce((a, b) => (b > a ? b : a), 0),
    };
  }, STEP);
  const shown = async (opacity) => {
    await page.evaluate(([most, how]) => {
      const viewport = services.cornerstoneViewportService
        .getCornerstoneViewport(services.viewportGridService.getActiveViewportId());
      const properties = { voiRange: { lower: 0, upper: 100 * most }, colormap: { name: 'rainbow_2', opacity: how } };
      viewport.setProperties(properties, viewport.getAllVolumeIds()[1]);
      viewport.render();
    }, [map.most, opacity]);
    await settled(page, 2000);
    return page.locator('[data-cy="viewport-pane"]').first().screenshot();
  };
  const without = await shown(0);
  const withMap = await shown(0.8);
  await picture(page, description.replace(/\W+/g, '-'));
  return { ...map, pixels: await difference(page, without, withMap) };
}

async function lookAtMaps(page) {
  const maps = {};
  for (const description of request.maps) maps[description] = await lookAtMap(page, description);
  return maps;
}

(async () => {
  const browser = await chromium.launch({ executablePath: request.chromium, headless: true, args: SWITCHES });
  const answer = {};
  const looks = {
    images: lookAtImages, segmentation: lookAtSegmentation, report: lookAtReport, structures: lookAtStructures,
    maps: lookAtMaps,
  };
  try {
    let page;
    for (const [what, look] of Object.entries(looks)) {
      if (!request[what]?.length) continue;
      if (!page || what !== 'segmentation') page = await open(browser); // what is open already would be shown with it
      try {
        answer[what] = await look(page);
      } catch (error) {
        await picture(page, `failed-${what}`);
        throw new Error(`${what}: ${error.message}`);
      }
    }
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify({ ...answer, ...seen }));
})().catch((error) => {
  console.error(String(error.message || error));
  process.exit(1);
});
