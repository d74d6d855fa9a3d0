// What the page uses of its two libraries; renew.py bundles it into charts.js, whose global name is
// `charts`. sortable-tablesort sorts a table of the class `sortable` by a click on a heading.
export {
  axisX, axisY, dot, gridX, gridY, line, link, plot, ruleX, ruleY, text, tickX,
} from "@observablehq/plot";
import "sortable-tablesort/dist/sortable.js";
