// What the page uses of d3 and d3-flame-graph; renew.sh makes bundle.min.js of it.
export { axisBottom, axisLeft } from "d3-axis";
export { scaleLinear } from "d3-scale";
export { pointer, select } from "d3-selection";
export { area, line, curveStepAfter } from "d3-shape";
export { default as flamegraph } from "d3-flame-graph";
